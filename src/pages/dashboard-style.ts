/** Rules of the dashboard, the status page and what copies; a part of the one stylesheet. */
export const dashboardStyle = `
.command { position: relative; }
.command .copy { position: absolute; top: .45rem; right: .45rem; padding: .2rem .65rem; font: 550 .8rem/1.5 var(--sans); background: var(--paper); color: var(--ink); cursor: pointer; }
.command pre { padding-right: 4.6rem; }
.copy[hidden] { display: none; }

.dashboard .button { font: inherit; font-weight: 550; cursor: pointer; background: var(--paper); color: var(--ink); border-color: var(--soft); padding: .45rem .95rem; }
.dashboard .button.main { background: var(--accent); border-color: var(--accent); color: var(--accent-ink); }
.dashboard .button.no { color: var(--deny); border-color: var(--deny); }
.dashboard .button:focus-visible, .dashboard input:focus-visible, .dashboard select:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.dashboard .top { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem 1.2rem; margin-bottom: 1rem; }
.dashboard .top h1 { font-size: 1.7rem; }
.dashboard .top .who { margin: 0 auto 0 0; color: var(--soft); overflow-wrap: anywhere; }
.dashboard .notice { border: 1px solid var(--line); border-left: 4px solid var(--accent); border-radius: 6px; padding: .7rem 1rem; margin: 0 0 1.2rem; overflow-wrap: anywhere; }
.dashboard .notice.error { border-left-color: var(--deny); }
.dashboard .notice p { margin: 0; }
.dashboard .copyable { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
.dashboard .notice .copyable { margin-top: .6rem; }
#live-state { margin: 0 0 .6rem; font-size: .85rem; }
.panels, .panels .column { display: grid; gap: 1.2rem; align-content: start; min-width: 0; }
@media (max-width: 61.99rem) {
  .panels .column { display: contents; }
  #approvals { order: -4; } #quota { order: -3; } #burn { order: -2; } #agents { order: -1; } #decisions { order: 0; } .panel { order: 1; }
}
.panel { border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem 1.2rem; min-width: 0; }
.panel h2 { font-size: 1.05rem; margin-bottom: .6rem; }
.panel p { margin: .4rem 0; }
.panel .figure { font-size: 2rem; font-weight: 680; letter-spacing: -.02em; line-height: 1.2; font-variant-numeric: tabular-nums; margin: 0 0 .4rem; }
.panel ul { list-style: none; margin: 0; padding: 0; max-width: none; }
.panel details { margin-top: .6rem; }
.panel .whose { font-weight: 600; overflow-wrap: anywhere; }
.bar-of { display: block; width: 100%; height: .55rem; border-radius: 99px; overflow: hidden; }
.bar-of .all { fill: var(--line); } .bar-of .part { fill: var(--accent); }
.bar-of.near .part { fill: var(--put); } .bar-of.over .part, .bar-of.over .all { fill: var(--deny); }
.burn { margin: 0; }
.burn svg { display: block; width: 100%; height: 13rem; background: var(--raised); border-radius: 8px; }
.burn path { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
.burn .grid { stroke: var(--line); stroke-width: 1; } .burn .area { fill: var(--accent); opacity: .14; } .burn path.spent { stroke: var(--accent); stroke-width: 2.5; }
.burn path.forecast { stroke: var(--accent); stroke-dasharray: 5 5; } .burn path.cap { stroke: var(--deny); } .burn .now { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.burn .axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .82rem; font-variant-numeric: tabular-nums; margin-top: .25rem; }
.burn .legend { display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; font-size: .9rem; margin-top: .4rem; }
.burn .legend li { margin: 0; }
.burn .legend li::before { content: ""; display: inline-block; width: 1.4rem; border-top: 3px solid var(--accent); vertical-align: middle; margin-right: .45rem; }
.burn .legend .forecast::before { border-top-style: dashed; } .burn .legend .cap::before { border-top-color: var(--deny); }
.agents > li { margin: 0; padding: .65rem 0; border-top: 1px solid var(--line); }
.agents > li:first-child { border-top: 0; padding-top: 0; }
.agents .depth-1 { margin-left: 1rem; } .agents .depth-2 { margin-left: 2rem; } .agents .depth-3 { margin-left: 3rem; } .agents .depth-4 { margin-left: 4rem; } .agents .depth-5 { margin-left: 5rem; }
.agents .agent { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.agents .agent a { font-weight: 600; color: inherit; overflow-wrap: anywhere; min-width: 0; }
.agents .agent span, .agents .none { font-size: .88rem; margin: 0; }
.agents .limit { display: grid; grid-template-columns: minmax(9.5rem, auto) 1fr; gap: .1rem .8rem; align-items: center; font-size: .9rem; font-variant-numeric: tabular-nums; margin-top: .25rem; }
.waiting > li { border-top: 1px solid var(--line); padding: .7rem 0; margin: 0; overflow-wrap: anywhere; }
.waiting > li:first-child { border-top: 0; padding-top: 0; }
.waiting p { max-width: none; }
.waiting .decide { display: flex; gap: .7rem; margin-top: .5rem; }
.waiting .decide .button { min-width: 7rem; min-height: 2.75rem; }
.decisions td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.decisions td:first-child, .decisions td.number { white-space: nowrap; }
.decisions td.number { padding-right: 0; } .decisions th.number { padding-right: 0; }
.verdict { font-weight: 600; color: var(--accent); } .verdict.denied { color: var(--deny); }
.rows > li { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .6rem; border-top: 1px solid var(--line); padding: .55rem 0; margin: 0; }
.rows > li:first-child { border-top: 0; padding-top: 0; }
.rows > li > div { flex: 1 1 9rem; min-width: 0; overflow-wrap: anywhere; }
.rows .button { padding: .25rem .75rem; font-size: .9rem; }
.stack { display: grid; gap: .8rem; margin: .7rem 0; max-width: 30rem; }
.stack label > span { display: block; font-weight: 600; font-size: .9rem; margin-bottom: .2rem; }
.stack input:not([type="radio"]), .stack select { width: 100%; min-width: 0; min-height: 2.75rem; font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft); border-radius: 7px; padding: .45rem .7rem; }
.stack fieldset { border: 0; padding: 0; margin: 0; display: grid; gap: .6rem; }
.stack legend { padding: 0; margin-bottom: .3rem; }
.stack .choice { display: flex; gap: .6rem; align-items: baseline; } .stack .choice > span { font-weight: 400; font-size: 1rem; margin: 0; }
.stack .limits { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); }
.stack .button { justify-self: start; }
.sign-in { max-width: 34rem; padding-top: clamp(1rem, 4vw, 3rem); }
@media (min-width: 62rem) {
  .panels { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); align-items: start; }
  .panel.wide { grid-column: 1 / -1; }
}
@media (max-width: 40rem) {
  .decisions thead { position: absolute; left: -999rem; }
  .decisions tr { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .7rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .decisions td { border: 0; padding: 0; } .decisions td:nth-child(3) { grid-column: 1 / -1; grid-row: 2; }
  .agents .limit { grid-template-columns: 1fr; }
}
h1.state { font-size: 1.9rem; margin: 1rem 0; }
.state.ok { color: var(--accent); } .state.down { color: var(--deny); } .state.slow, .state.degraded { color: var(--put); } .state.off { color: var(--soft); }
.status td { overflow-wrap: break-word; }
.status td.state { white-space: nowrap; }
`
