// 1, 2, 3, backspace and the arrows press the buttons of the comparison that is shown.
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea") || event.repeat) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const buttons = {"1": "A", "2": "B", "3": "tie", Backspace: "undo", ArrowLeft: "back", ArrowRight: "next"};
  const found = document.getElementById("vote-" + buttons[event.key]);
  if (found && found.offsetParent) { event.preventDefault(); found.click(); }
});
