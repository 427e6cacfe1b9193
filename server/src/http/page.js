const $ = id => document.getElementById(id);
const whole = n => Math.round(n).toLocaleString("en");
const bytes = n => { const u = ["B", "KiB", "MiB", "GiB", "TiB"]; let i = 0; while (n >= 1024 && i < 4) { n /= 1024; i++; } return n.toFixed(i ? 1 : 0) + " " + u[i]; };
const span = s => s < 120 ? whole(s) + " s" : s < 7200 ? whole(s / 60) + " min" : s < 172800 ? whole(s / 3600) + " h" : whole(s / 86400) + " d";
function fill(table, heads, rows, none) {
  table.replaceChildren();
  if (!rows.length) { table.textContent = none; return; }
  const line = (cells, tag) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const td = document.createElement(tag);
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      td.textContent = text;
      td.className = kind || (typeof cell === "number" ? "n" : "");
      if (typeof text === "number") { td.textContent = whole(text); td.className = "n"; }
      tr.append(td);
    }
    table.append(tr);
  };
  line(heads, "th");
  rows.forEach(row => line(row, "td"));
}
const list = reasons => $("reasons").replaceChildren(...reasons.map(r => Object.assign(document.createElement("li"), { textContent: r })));
let before;
function show(s) {
  const now = performance.now() / 1000;
  $("version").textContent = s.version;
  $("ready").textContent = "● " + s.state;
  $("ready").className = s.state === "ready" ? "good" : "bad";
  list(s.reasons);
  $("connections").textContent = whole(s.connections);
  $("uptime").textContent = span(s.uptime_seconds || 0);
  if (before) {
    const rate = key => (s.totals[key] - before.totals[key]) / (now - before.now);
    $("messages").textContent = whole(rate("messages"));
    $("readings").textContent = whole(rate("readings"));
    $("bytes").textContent = bytes(Math.max(0, rate("received_bytes")));
  }
  before = { totals: s.totals, now };
  $("mqtt").textContent = s.addresses.mqtt;
  $("grpc").textContent = s.addresses.grpc;
  $("logs").replaceChildren(...s.logs.map(log => {
    const p = document.createElement("p");
    const m = Object.assign(document.createElement("meter"), { max: log.capacity_bytes || 1, value: log.used_bytes, high: .8 * log.capacity_bytes });
    p.append(`${log.log}: records ${whole(log.start_offset)} to ${whole(log.end_offset)}, ${bytes(log.used_bytes)} of ${bytes(log.capacity_bytes)}`, m);
    if (log.blocked_reason) p.append(Object.assign(document.createElement("span"), { className: "bad", textContent: log.blocked_reason }));
    return p;
  }));
  fill($("sinks"), ["sink", "state", ["records behind", "n"], ["behind for", "n"], "reason"],
    s.sinks.map(k => [k.sink, [k.state, k.state === "running" ? "good" : "bad"], k.lag_records, [span(k.lag_seconds || 0), "n"], k.reason]), "none");
  fill($("books"), ["tenant", "sink", ["accepted", "n"], ["stored", "n"], ["merged", "n"], ["pending", "n"], ["dead letters", "n"], ""],
    Array.isArray(s.books) ? s.books.map(b => [b.tenant, b.sink, b.accepted, b.stored, b.merged, b.pending, b.dead_lettered, [b.balanced ? "balances" : "does not balance", b.balanced ? "good" : "bad"]]) : [],
    Array.isArray(s.books) ? "nothing was accepted yet" : "not known: " + s.books.error);
  fill($("unrouted"), ["topic", "client", ["messages", "n"], "last"],
    s.unrouted.map(u => [u.topic, u.client, u.messages, u.last]), "none");
  fill($("letters"), ["received", "topic", "stage", "reason", "payload"],
    Array.isArray(s.dead_letters) ? s.dead_letters.map(d => [d.received, d.topic, d.stage, d.reason, d.payload]) : [],
    Array.isArray(s.dead_letters) ? "none" : "not known: " + s.dead_letters.error);
}
function starting(s) {
  $("ready").textContent = "● not ready";
  $("ready").className = "bad";
  list(s.reasons.map(r => `${r.part}: ${r.reason}`));
}
async function refresh() {
  try {
    const answer = await fetch("/status.json");
    const status = await answer.json();
    if (answer.ok) show(status); else starting(status);
  } catch {
    $("ready").textContent = "● no answer";
    $("ready").className = "bad";
  }
  setTimeout(refresh, 2000);
}
refresh();
