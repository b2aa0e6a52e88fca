const form = document.querySelector("form"), key = "sheet " + form.dataset.sheet;
const cards = [...form.querySelectorAll("article")];
const columns = form.dataset.columns.split(" ");
const of = (card, column) => [...card.querySelectorAll(`[data-column="${column}"]`)];
const said = (card, column) => {
  const [first, ...more] = of(card, column);
  if (first.type !== "radio") return first.value;
  return [first, ...more].find(tick => tick.checked)?.value ?? "";
};
const asked = columns.filter(column => of(cards[0], column)[0].type === "radio");
const state = () => cards.map(card => ({
  record: card.dataset.record,
  ...Object.fromEntries(columns.map(column => [column, said(card, column)])),
}));
const count = () => {
  const done = state().filter(row => asked.every(column => row[column])).length;
  document.querySelector("progress").value = done;
  document.querySelector("output").textContent = `${done} of ${cards.length}`;
};
const storage = (() => { try { return window.localStorage; } catch { return null; } })();
for (const [at, row] of JSON.parse(storage?.getItem(key) ?? "[]").entries())
  for (const column of columns)
    for (const field of of(cards[at], column))
      if (field.type === "radio") field.checked = field.value === row[column];
      else field.value = row[column];
form.addEventListener("input", () => { storage?.setItem(key, JSON.stringify(state())); count(); });
form.addEventListener("submit", event => event.preventDefault());
const guarded = text => (/^[=+\-@\t\r]/.test(text) ? "'" : "") + text;
const cell = text => '"' + guarded(text).replaceAll('"', '""') + '"';
document.querySelector("button").addEventListener("click", () => {
  const names = ["record", ...columns];
  const lines = state().map(row => names.map(name => cell(row[name])).join(","));
  const text = "\ufeff" + [names.join(","), ...lines].join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = form.dataset.file;
  link.click();
});
window.addEventListener("beforeprint", () => {
  for (const one of form.querySelectorAll("details")) one.open = true;
});
count();
