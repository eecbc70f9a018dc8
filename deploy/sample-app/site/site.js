'use strict';
// The front page: shows the listings, and which VMs answered. Asks again every two seconds.

const element = (id) => document.getElementById(id);
const money = new Intl.NumberFormat('en', { style: 'currency', currency: 'EUR', maximumFractionDigits: 0 });

function card(listing) {
  const item = document.createElement('li');
  const parts = [
    ['h2', listing.title],
    ['p', [listing.city, listing.rooms && `${listing.rooms} rooms`, listing.area && `${listing.area} m²`].filter(Boolean).join(' · ')],
    ['strong', money.format(listing.price)],
    ['small', listing.indexed ? `number ${listing.id}, indexed` : `number ${listing.id}, waiting to be indexed`],
  ];
  for (const [tag, text] of parts) {
    item.appendChild(document.createElement(tag)).textContent = text;
  }
  item.classList.toggle('waiting', !listing.indexed);
  return item;
}

// The same listing sent again, because no answer came, is not made twice. Not randomUUID: only HTTPS pages have it.
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
let key = newKey();

async function refresh() {
  const served = element('served');
  try {
    const response = await fetch('api/listings', { signal: AbortSignal.timeout(3000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { listings, served_by: backend } = await response.json();
    element('listings').replaceChildren(...listings.map(card));
    served.textContent = `page by ${response.headers.get('X-Front-Door')}, listings by ${backend}`;
    served.className = '';
  } catch (error) {
    served.textContent = `the listings cannot be fetched just now (${error.message})`;
    served.className = 'down';
  }
}

element('new').addEventListener('input', () => { key = newKey(); });

element('new').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  const fields = Object.fromEntries(new FormData(form));
  try {
    const response = await fetch('api/listings', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body: JSON.stringify({ ...fields, price: Number(fields.price) }),
    });
    const { error, listing, served_by: backend } = await response.json();
    if (error) throw new Error(error);
    const later = response.status === 202 ? ' It will be indexed as soon as the broker answers.' : '';
    element('said').textContent = `Added number ${listing.id}, by ${backend}.${later}`;
    form.reset();
    key = newKey();
  } catch (problem) {
    element('said').textContent = `Not added: ${problem.message}`;
  }
  await refresh();
});

refresh();
setInterval(refresh, 2000);
