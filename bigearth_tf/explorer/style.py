"""The looks of the page: one sheet, light and dark as the browser asks for."""

ACCENT = "#0b6bcb"

CSS = """
:root { --page: #f6f7f8; --sheet: #fff; --ink: #1c2127; --soft: #5c6670; --line: #dde1e6; --quiet: #c9cfd6;
  --accent: #0b6bcb; --right: #12805c; --wrong: #c62f2f; --missed: #b86200; --tint: #e8f0fa; --evidence: .65; }
body.body--dark { --page: #14171a; --sheet: #1d2226; --ink: #e6e9ec; --soft: #9aa5b0; --line: #323a42; --quiet: #48525c;
  --accent: #6cb2ff; --right: #4cc38a; --wrong: #ff7b72; --missed: #f0a04b; --tint: #20303f; }
body { background: var(--page); color: var(--ink); font-size: 14px; line-height: 1.45; }
.nicegui-content { padding: 0; display: block; }
a:not(.q-btn) { color: var(--accent); text-decoration: none; } a:not(.q-btn):hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.top { display: flex; flex-wrap: wrap; gap: 4px 22px; align-items: center; padding: 9px 20px; background: var(--sheet);
  border-bottom: 1px solid var(--line); position: sticky; top: 0; z-index: 20; }
.top a.brand:not(.q-btn) { font-weight: 600; font-size: 15px; color: var(--ink); }
.top nav { display: flex; gap: 4px; }
.top nav a:not(.q-btn) { padding: 4px 10px; border-radius: 6px; color: var(--soft); }
.top nav a.here:not(.q-btn) { background: var(--tint); color: var(--ink); font-weight: 500; }
.top .state { margin-left: auto; color: var(--soft); font-size: 12.5px; display: flex; gap: 6px 16px; flex-wrap: wrap; }
.body { max-width: 1640px; margin: 0 auto; padding: 16px 20px 40px; }
.sides { display: grid; grid-template-columns: 232px minmax(0, 1fr); gap: 22px; align-items: start; }
.side { display: flex; flex-direction: column; gap: 10px; position: sticky; top: 62px; }
.line { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin-bottom: 12px; }
.line .push { margin-left: auto; }
.count { font-size: 16px; font-weight: 600; }
.soft { color: var(--soft); font-size: 12.5px; }
.part { font-size: 15px; font-weight: 600; margin: 0; line-height: 1.4; letter-spacing: 0; }
.sheet { background: var(--sheet); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.stack { display: flex; flex-direction: column; gap: 16px; min-width: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 14px 12px; }
.card:not(.q-btn) { display: flex; flex-direction: column; gap: 2px; color: var(--ink); min-width: 0; }
.card:hover { text-decoration: none; } .card:hover .frame { outline: 2px solid var(--accent); }
.frame { position: relative; display: block; aspect-ratio: 1; background: var(--line); border-radius: 6px;
  overflow: hidden; }
.frame img { width: 100%; height: 100%; display: block; object-fit: cover; font-size: 11px; color: var(--soft); }
.corner { position: absolute; right: 5px; bottom: 5px; padding: 0 6px; border-radius: 4px; background: rgba(0,0,0,.66);
  color: #fff; font-size: 12px; font-variant-numeric: tabular-nums; }
.labels { font-size: 12.5px; line-height: 1.3; margin-top: 3px; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; overflow: hidden; }
.where { font-size: 12px; color: var(--soft); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.dot { display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 6px; }
.patch { display: grid; grid-template-columns: minmax(0, 1fr) 490px; gap: 18px; align-items: start; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; }
.figures.bands { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
figure { margin: 0; } figure .frame img { image-rendering: pixelated; }
figure .over { position: absolute; inset: 0; opacity: var(--evidence); image-rendering: auto; }
figcaption { font-size: 12.5px; color: var(--soft); margin-top: 4px; line-height: 1.35; }
figcaption b { color: var(--ink); font-weight: 600; }
.name { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 14px; font-weight: 600;
  overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 14px; margin: 0; font-size: 13px; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; color: var(--soft); }
.chip { background: var(--tint); color: var(--ink); padding: 2px 10px; border-radius: 12px; font-size: 13px; }
.bars { display: flex; flex-direction: column; gap: 1px; }
.bar { display: grid; grid-template-columns: minmax(0, 1fr) 66px 110px 46px; gap: 8px; align-items: center; width: 100%;
  text-align: left; border: 0; background: none; color: var(--ink); font: inherit; font-size: 12.5px; padding: 3px 6px;
  border-radius: 5px; cursor: pointer; }
.bar:hover, .bar.chosen { background: var(--tint); }
.bar .class { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.bar .said { font-size: 12px; text-align: right; white-space: nowrap; color: var(--soft); }
.bar .track { position: relative; height: 10px; background: var(--line); border-radius: 3px; }
.bar .fill { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--quiet); }
.bar .mark { position: absolute; top: -2px; bottom: -2px; width: 2px; background: var(--ink); }
.bar .number { text-align: right; font-variant-numeric: tabular-nums; }
.bar.quiet .class, .bar.quiet .number { color: var(--soft); }
.bar.right .fill { background: var(--right); } .bar.right .said { color: var(--right); }
.bar.wrong .fill { background: var(--wrong); } .bar.wrong .said { color: var(--wrong); }
.bar.missed .fill { background: var(--missed); } .bar.missed .said { color: var(--missed); }
.bar.predicted .fill { background: var(--accent); }
.message { padding: 10px 14px; border-radius: 8px; border: 1px solid var(--line); background: var(--sheet);
  white-space: pre-wrap; overflow-wrap: anywhere; }
.message.problem { border-color: var(--wrong); } .message.problem::before { content: "⚠ "; color: var(--wrong); }
.map { width: 100%; }
.keys { color: var(--soft); font-size: 12.5px; margin-top: 8px; }
.q-field--dense .q-field__label { font-size: 13px; }
.q-uploader { width: 100%; box-shadow: none; border: 1px dashed var(--quiet); background: transparent;
  max-height: 320px; }
.q-uploader__header { background: var(--accent); } body.body--dark .q-uploader__header { background: #23507c; }
.own { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 18px; }
@media (max-width: 1180px) { .patch { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 760px) {
  .body { padding: 12px; } .top { padding: 8px 12px; position: static; }
  .top .state { display: none; }
  .sides { grid-template-columns: minmax(0, 1fr); }
  .side { position: static; display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .grid { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .bar { grid-template-columns: minmax(0, 1fr) 66px 64px 46px; gap: 6px; } }
"""
