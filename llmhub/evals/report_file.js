"use strict";
// Shows the rows of the report: text filter, score filter, models side by side. All text is set as text, never as HTML.
const data = JSON.parse(document.getElementById("rows").textContent);
const PER_PAGE = 25;
const byId = (id) => document.getElementById(id);
const controls = ["search", "scorer", "show", "model"].map(byId);
let page = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function option(select, value, label) {
  const made = element("option", "", label);
  made.value = value;
  select.append(made);
}

data.scorers.forEach((scorer, index) => option(byId("scorer"), index, scorer.name));
option(byId("model"), -1, "any model");
data.models.forEach((model, index) => option(byId("model"), index, model.name));

const searchable = data.rows.map((row) =>
  [...row.inputs.map(String), ...row.answers.map((answer) => `${answer.response ?? ""} ${answer.error ?? ""}`)]
    .join("\n").toLowerCase());

function scoresOf(row, scorer, model) {
  return row.answers.filter((answer) => model < 0 || answer.model === model).map((answer) => answer.scores[scorer]);
}

function isShown(row, show, scorer, model) {
  const scores = scoresOf(row, scorer, model);
  const known = scores.filter((score) => score !== null && score !== undefined);
  switch (show) {
    case "wrong": return known.some((score) => score < data.scorers[scorer].best);
    case "right": return known.length > 0 && known.every((score) => score >= data.scorers[scorer].best);
    case "differ": return new Set(scoresOf(row, scorer, -1)).size > 1;
    case "failed": return row.answers.some((answer) => answer.error && (model < 0 || answer.model === model));
    case "unscored": return known.length < scores.length;
    default: return true;
  }
}

function selected() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [scorer, model] = [Number(byId("scorer").value || 0), Number(byId("model").value)];
  const show = byId("show").value;
  return data.rows.filter((row, index) =>
    words.every((word) => searchable[index].includes(word)) && isShown(row, show, scorer, model));
}

function scoreBadge(scorer, value) {
  const known = value !== null && value !== undefined;
  const text = !known ? "–" : scorer.binary ? (value >= 1 ? "right" : "wrong") : String(Number(value.toPrecision(4)));
  const kind = !known ? "" : value >= scorer.best ? " right" : scorer.binary || value <= scorer.worst ? " wrong" : "";
  return element("span", "score" + kind, `${scorer.name}: ${text}`);
}

function answerPart(answer) {
  const part = element("div", "answer");
  const title = element("h3");
  const dot = element("span", "dot");
  dot.style.background = data.models[answer.model].color;
  title.append(dot, data.models[answer.model].name + (data.samples > 1 ? ` · sample ${answer.sample + 1}` : ""));
  part.append(title);
  if (answer.error) part.append(element("pre", "error", answer.error));
  if (answer.response !== null) {
    const text = element("pre", "", answer.response);
    text.dir = "auto";
    part.append(text);
  }
  const scores = element("div", "scores");
  data.scorers.forEach((scorer, index) => {
    const badge = scoreBadge(scorer, answer.scores[index]);
    if (answer.notes[index]) badge.title = answer.notes[index];
    scores.append(badge);
  });
  part.append(scores);
  data.scorers.forEach((scorer, index) => {
    if (answer.notes[index]) part.append(element("div", "facts", `${scorer.name}: ${answer.notes[index]}`));
  });
  if (answer.facts) part.append(element("div", "facts", answer.facts));
  return part;
}

function rowPart(row) {
  const part = element("article");
  const inputs = element("div", "inputs");
  const list = element("dl");
  list.append(element("dt", "", "row"), element("dd", "", row.name));
  data.columns.forEach((column, index) => {
    if (row.inputs[index] === null) return;
    const value = element("dd");
    const text = element("pre", "", row.inputs[index]);
    text.dir = "auto";
    value.append(text);
    list.append(element("dt", "", column), value);
  });
  inputs.append(list);
  const answers = element("div", "answers");
  const model = Number(byId("model").value);
  row.answers.filter((answer) => model < 0 || answer.model === model).forEach((answer) => answers.append(answerPart(answer)));
  part.append(inputs, answers);
  return part;
}

function render() {
  const rows = selected();
  const pages = Math.max(1, Math.ceil(rows.length / PER_PAGE));
  page = Math.min(page, pages - 1);
  byId("items").replaceChildren(...rows.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(rowPart));
  byId("count").textContent = `${rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} rows`;
  byId("page").textContent = `page ${page + 1} of ${pages}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page >= pages - 1;
}

function turn(step) {
  page += step;
  render();
  byId("samples").scrollIntoView();
}

controls.forEach((control) => control.addEventListener("input", () => { page = 0; render(); }));
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
render();
