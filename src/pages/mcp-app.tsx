import { clientScript } from './script.ts'

/**
 * The dashboard inside a conversation (MCP Apps, SEP-1865): one HTML document that brings its script and style along and loads nothing. What it
 * shows comes from its host, over postMessage, as the tool's result.
 */
export function mcpAppPage(): () => Promise<string> {
  let known: Promise<string> | null = null
  return () => {
    known ??= clientScript('mcp-app').then(documentOf)
    return known
  }
}

const documentOf = (script: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>Gvnr dashboard</title>
<style>${style}</style>
</head>
<body>
<main id="app"><p class="soft">Waiting for the figures …</p></main>
<script>${script.replaceAll('</', '<\\/')}</script>
</body>
</html>
`

const style = `
:root { color-scheme: light dark; --paper: #fcfcfa; --raised: #f3f3ee; --line: #dcdcd3; --ink: #1a1c1e; --soft: #5b5f63; --accent: #0a6b4b; --deny: #a8321c; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) { --paper: #121415; --raised: #1b1e20; --line: #313538; --ink: #e9e8e4; --soft: #a0a5a8; --accent: #56c596; --deny: #f0846c; --warn: #dcae54; } }
:root[data-theme="light"] { color-scheme: light; }
:root[data-theme="dark"] { color-scheme: dark; --paper: #121415; --raised: #1b1e20; --line: #313538; --ink: #e9e8e4; --soft: #a0a5a8; --accent: #56c596; --deny: #f0846c; --warn: #dcae54; }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
h1, h2 { line-height: 1.25; margin: 0 0 .4rem; font-size: 1rem; } h2 { margin-top: 1.1rem; }
p { margin: .3rem 0; } ul { list-style: none; margin: 0; padding: 0; }
.soft { color: var(--soft); } .figure { font-size: 1.6rem; font-weight: 680; margin: 0; font-variant-numeric: tabular-nums; }
li { padding: .3rem 0; overflow-wrap: anywhere; }
.bar { display: block; width: 100%; height: .5rem; border-radius: 99px; overflow: hidden; } .bar .all { fill: var(--line); } .bar .part { fill: var(--accent); } .bar.near .part { fill: var(--warn); } .bar.over .part { fill: var(--deny); }
.chart { display: block; width: 100%; height: 9rem; background: var(--raised); border-radius: 6px; margin: .4rem 0; }
.chart path { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2; } .chart .spent { stroke: var(--accent); } .chart .forecast { stroke: var(--accent); stroke-dasharray: 4 4; } .chart .cap { stroke: var(--deny); }
.row { display: flex; justify-content: space-between; gap: 1rem; } .row > :last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.denied { color: var(--deny); font-weight: 600; } .approved { color: var(--accent); font-weight: 600; }
button { font: inherit; padding: .3rem .8rem; border-radius: 6px; border: 1px solid var(--soft); background: var(--paper); color: inherit; cursor: pointer; }
button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
`
