import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** The protocol generations of the MCP conformance suite and the package that tests each. */
const SUITES = { '2025-11-25': '@modelcontextprotocol/conformance', '2026-07-28': 'conformance-next' } as const
export type ConformanceSuite = keyof typeof SUITES

const OLDEST_WITH_GLOB = 22

/**
 * The command that starts an MCP conformance CLI: `spawn(program, [...args, 'server', '--url', …])`.
 *
 * The CLIs ask for Node 22 for the sake of one import, `fs.globSync`, which only their client-side commands call. On an older
 * Node this supplies the name through a module hook. (A Node 22 from npm is 185 MB and its `bin` would take the place of `node`
 * in every npm script.)
 */
export function conformanceCommand(suite: ConformanceSuite): { program: string; args: string[] } {
  const manifest = createRequire(import.meta.url).resolve(`${SUITES[suite]}/package.json`)
  const cli = join(dirname(manifest), 'dist/index.js')
  const old = Number.parseInt(process.versions.node, 10) < OLDEST_WITH_GLOB
  return { program: process.execPath, args: old ? ['--import', preload(), cli] : [cli] }
}

/** Runs in the CLI's process: registers the hooks below before the CLI is loaded. */
function preload(): string {
  return dataUrl(`import { register } from 'node:module'; register(${JSON.stringify(dataUrl(HOOKS))})`)
}

const HOOKS = `
const patched = 'gvnr:fs'
export function resolve(specifier, context, next) {
  const isFs = specifier === 'fs' || specifier === 'node:fs'
  return isFs && context.parentURL?.includes('conformance') ? { url: patched, shortCircuit: true } : next(specifier, context)
}
export function load(url, context, next) {
  if (url !== patched) return next(url, context)
  const source = "export * from 'node:fs'; export { default } from 'node:fs';" +
    "export function globSync() { throw new Error('fs.globSync needs Node 22') }"
  return { format: 'module', source, shortCircuit: true }
}`

function dataUrl(source: string): string {
  return `data:text/javascript,${encodeURIComponent(source)}`
}
