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
  ];
  for (const [tag, text] of parts) {
    item.appendChild(document.createElement(tag)).textContent = text;
  }
  return item;
}

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

element('new').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  const fields = Object.fromEntries(new FormData(form));
  try {
    const response = await fetch('api/listings', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ ...fields, price: Number(fields.price) }),
    });
    const { error, listing } = await response.json();
    element('said').textContent = error || `Added number ${listing.id}.`;
    if (!error) form.reset();
  } catch (problem) {
    element('said').textContent = `Not added: ${problem.message}`;
  }
  await refresh();
});

refresh();
setInterval(refresh, 2000);
