const form = document.querySelector("form"), key = "audit " + form.dataset.sheet;
const cards = [...form.querySelectorAll("article")];
const state = () => cards.map(card => ({
  record: card.dataset.record,
  answer: card.querySelector("input:checked")?.value ?? "",
  comment: card.querySelector("input[type=text]").value,
}));
const count = () => {
  const done = state().filter(row => row.answer).length;
  document.querySelector("progress").value = done;
  document.querySelector("output").textContent = `${done} of ${cards.length}`;
};
const storage = (() => { try { return window.localStorage; } catch { return null; } })();
for (const [at, row] of JSON.parse(storage?.getItem(key) ?? "[]").entries()) {
  for (const tick of cards[at].querySelectorAll("input[type=radio]"))
    tick.checked = tick.value === row.answer;
  cards[at].querySelector("input[type=text]").value = row.comment;
}
form.addEventListener("input", () => { storage?.setItem(key, JSON.stringify(state())); count(); });
form.addEventListener("submit", event => event.preventDefault());
const guarded = text => (/^[=+\-@\t\r]/.test(text) ? "'" : "") + text;
const cell = text => '"' + guarded(text).replaceAll('"', '""') + '"';
document.querySelector("button").addEventListener("click", () => {
  const lines = state().map(row => [row.record, row.answer, row.comment].map(cell).join(","));
  const text = "\ufeff" + ["record,answer,comment", ...lines].join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "sheet.csv";
  link.click();
});
window.addEventListener("beforeprint", () => {
  for (const one of form.querySelectorAll("details")) one.open = true;
});
count();
