import { dashboardStyle } from './dashboard-style.ts'

/** The one stylesheet. Served under a name that holds its hash, so it is cached for good. */
export const stylesheet = `
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --raised: #f3f3ee; --line: #dcdcd3; --ink: #1a1c1e; --soft: #5b5f63;
  --accent: #0a6b4b; --accent-ink: #fff; --deny: #a8321c; --get: #1f5fa8; --put: #8a5a00;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121415; --raised: #1b1e20; --line: #313538; --ink: #e9e8e4; --soft: #a0a5a8;
    --accent: #56c596; --accent-ink: #08150f; --deny: #f0846c; --get: #7db4f0; --put: #dcae54;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1.5rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.6 var(--sans); }
a { color: var(--accent); text-underline-offset: .18em; text-decoration-thickness: .06em; }
a:focus-visible, summary:focus-visible, pre:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem 1rem; z-index: 1; }

.bar, main, footer { width: min(72rem, 100% - 2.5rem); margin-inline: auto; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem 1.5rem; padding: 1.1rem 0; }
.bar .brand { display: flex; align-items: center; gap: .55rem; font-weight: 650; font-size: 1.15rem; color: inherit; text-decoration: none; margin-right: auto; }
.bar .brand svg { width: 1.6rem; height: 1.6rem; color: var(--accent); }
.bar nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.bar nav a { color: var(--soft); text-decoration: none; padding: .3rem 0; }
.bar nav a:hover, .bar nav a[aria-current] { color: var(--ink); text-decoration: underline; }
footer { border-top: 1px solid var(--line); margin-top: 4rem; padding: 1.5rem 0 2.5rem; color: var(--soft); font-size: .9rem; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }
footer a { color: inherit; }
footer span { margin-right: auto; }

h1, h2, h3 { line-height: 1.2; letter-spacing: -.012em; text-wrap: balance; margin: 0; }
h1 { font-size: clamp(2rem, 1.4rem + 2.6vw, 3.1rem); font-weight: 680; letter-spacing: -.025em; }
h2 { font-size: 1.5rem; font-weight: 650; }
h3 { font-size: 1.1rem; font-weight: 650; }
p { margin: .7rem 0; max-width: 44rem; text-wrap: pretty; }
ul, ol { padding-left: 1.25rem; max-width: 44rem; }
li { margin: .3rem 0; }
.soft { color: var(--soft); }
.lead { font-size: 1.15rem; color: var(--soft); max-width: 34rem; margin: 1.1rem 0 1.6rem; }

code, pre { font-family: var(--mono); font-size: .875em; }
:not(pre) > code { background: var(--raised); border-radius: 4px; padding: .1em .32em; overflow-wrap: anywhere; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: .85rem 1rem; margin: .7rem 0; overflow-x: auto; line-height: 1.5; font-size: .84rem; tab-size: 2; }
pre code { font-size: inherit; }
pre.answer { background: none; color: var(--soft); border-style: dashed; }

.scroll { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .82rem; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; padding-right: 1.2rem; white-space: nowrap; }
td:first-child code { white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }

.button { display: inline-block; padding: .6rem 1.1rem; border-radius: 7px; border: 1px solid var(--line); color: inherit; text-decoration: none; font-weight: 550; }
.button:hover { border-color: var(--soft); }
.button.main { background: var(--accent); border-color: var(--accent); color: var(--accent-ink); }
.buttons { display: flex; flex-wrap: wrap; gap: .7rem; }

.hero { display: grid; gap: 2.5rem; align-items: center; padding: clamp(1.5rem, 4vw, 4rem) 0 1rem; }
.home section { margin-top: clamp(3rem, 6vw, 5rem); }
.facts { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); margin-top: 2.5rem; padding-top: 2rem; border-top: 1px solid var(--line); }
.facts h2 { font-size: 1.1rem; margin-bottom: .35rem; }
.facts p { margin: 0; color: var(--soft); font-size: .96rem; }
.steps { list-style: none; padding: 0; max-width: none; counter-reset: step; display: grid; gap: 1.5rem 2.5rem; }
.steps > li { counter-increment: step; min-width: 0; margin: 0; }
.steps h3::before { content: counter(step) "."; color: var(--accent); margin-right: .45rem; }
.columns { display: grid; gap: 2.5rem 3.5rem; align-items: start; }
.columns > * { min-width: 0; }
.price { font-size: 2.2rem; font-weight: 680; letter-spacing: -.02em; line-height: 1.2; }
@media (min-width: 56rem) {
  .hero { grid-template-columns: minmax(0, 1fr) minmax(0, 29rem); }
  .steps { grid-template-columns: 1fr 1fr; }
  .columns { grid-template-columns: 1fr 1fr; }
}

.loop { width: 100%; height: auto; display: block; font-family: var(--sans); }
.loop text { fill: var(--ink); font-size: 15px; }
.loop .name { font-weight: 650; text-anchor: middle; }
.loop .note { fill: var(--soft); font-size: 13.5px; }
.loop .middle { text-anchor: middle; }
.loop .box { fill: var(--raised); stroke: var(--line); }
.loop .box.own { fill: var(--accent); stroke: var(--accent); }
.loop .name.own { fill: var(--accent-ink); }
.loop .life { stroke: var(--line); stroke-dasharray: 3 4; }
.loop .arrow { stroke: var(--ink); stroke-width: 1.6; fill: none; }
.loop .head { fill: var(--ink); }
.loop .yes { stroke: var(--accent); } .loop .head.yes { fill: var(--accent); stroke: none; } .loop text.yes { fill: var(--accent); stroke: none; font-weight: 600; }
.loop .no { fill: var(--deny); font-weight: 600; }

.docs { display: grid; gap: 2rem 3.5rem; padding-top: 1rem; }
.docs > article { min-width: 0; }
.docs .contents { font-size: .92rem; }
.contents strong { display: block; margin: 1.1rem 0 .2rem; font-size: .82rem; font-weight: 600; color: var(--soft); }
.contents ul { list-style: none; margin: 0; padding: 0; }
.contents li { margin: 0; }
.contents li a { display: block; padding: .18rem 0; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
.contents li a:hover { color: var(--accent); text-decoration: underline; }
.docs section { margin-top: 2.75rem; }
.docs section > h2 { padding-bottom: .5rem; border-bottom: 1px solid var(--line); }
.operation { padding: 2rem 0 1.5rem; border-bottom: 1px solid var(--line); }
.operation:last-child { border-bottom: 0; }
.operation h4 { margin: 1.2rem 0 0; font-size: .85rem; font-weight: 600; color: var(--soft); }
.operation h3 a { color: inherit; text-decoration: none; }
.operation h3 a:hover::after { content: " #"; color: var(--soft); }
.route { font-family: var(--mono); font-size: .95rem; margin: .5rem 0 .2rem; overflow-wrap: anywhere; max-width: none; }
.method { font-weight: 700; margin-right: .6rem; color: var(--accent); }
.method.get { color: var(--get); } .method.put { color: var(--put); } .method.delete { color: var(--deny); }
.who { font-size: .9rem; color: var(--soft); margin: .2rem 0; }
.pair { display: grid; gap: 0 1rem; }
.pair > div { min-width: 0; }
.codes { font-size: .9rem; max-width: none; line-height: 1.9; }
.codes a { text-decoration: none; color: inherit; white-space: nowrap; margin-right: .7rem; }
.codes a:hover { text-decoration: underline; }
td .must { color: var(--deny); font-size: .82rem; white-space: nowrap; }
@media (max-width: 40rem) {
  .operation thead { display: none; }
  .operation table, .operation tbody, .operation tr, .operation td { display: block; }
  .operation tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .operation tr:last-child { border-bottom: 0; }
  .operation td { border: 0; padding: .1rem 0; }
  .operation td:first-child code { white-space: normal; }
  .operation td:nth-child(2) { color: var(--soft); font-size: .88rem; }
}
@media (max-width: 61.99rem) {
  .contents ul { display: flex; flex-wrap: wrap; gap: 0 1.1rem; }
}
details > summary { cursor: pointer; color: var(--soft); font-size: .9rem; padding: .3rem 0; }
@media (min-width: 62rem) {
  .docs { grid-template-columns: 15rem minmax(0, 1fr); }
  .docs .contents { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; padding: 1rem 0 2rem; align-self: start; }
}
@media (min-width: 76rem) { .pair { grid-template-columns: 1fr 1fr; } }
.pay { max-width: 46rem; padding-top: clamp(1rem, 4vw, 2.5rem); }
.pay section, .pay form.amount { margin-top: 1.8rem; }
.pay h2 { margin-top: 2.2rem; font-size: 1.25rem; }
.pay label { display: block; font-weight: 600; margin: .9rem 0 .3rem; }
.pay input { width: 100%; min-width: 0; font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft); border-radius: 7px; padding: .6rem .75rem; }
.pay input:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.pay .button { font: inherit; font-weight: 550; cursor: pointer; background: var(--raised); color: var(--ink); margin-top: .6rem; }
.pay .button.main { background: var(--accent); color: var(--accent-ink); }
.pay .field { display: flex; align-items: center; gap: .5rem; font-size: 1.35rem; }
.pay .field .button { font-size: 1rem; margin: 0; white-space: nowrap; }
.pay .presets { display: flex; flex-wrap: wrap; gap: .5rem; }
.pay .presets a { border: 1px solid var(--line); border-radius: 99px; padding: .3rem .95rem; text-decoration: none; color: inherit; }
.pay .presets a[aria-current] { border-color: var(--accent); color: var(--accent); font-weight: 600; }
.pay .preview { display: block; font-size: 1.5rem; font-weight: 680; font-variant-numeric: tabular-nums; }
.pay .copyable { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .8rem; }
.pay .copyable code { font-size: .95rem; padding: .5rem .65rem; overflow-wrap: anywhere; }
.pay .copyable .button { margin: 0; padding: .35rem .8rem; }
.pay .qr { margin: .7rem 0; max-width: 15rem; }
.pay .qr svg { display: block; width: 100%; height: auto; border-radius: 8px; border: 1px solid var(--line); }
.pay .qr figcaption { margin-top: .4rem; font-size: .9rem; }
.pay .notice, #status { border: 1px solid var(--line); border-left: 4px solid var(--soft); border-radius: 6px; padding: .7rem 1rem; margin: 1.2rem 0; overflow-wrap: anywhere; }
.pay .notice.done, #status.done { border-left-color: var(--accent); }
.pay .notice.error, #status.error { border-left-color: var(--deny); }
.pay .notice p { margin: 0; }
.pay [hidden] { display: none; }
.lost { padding: clamp(2rem, 8vw, 6rem) 0; }
${dashboardStyle}`
