import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Env, Hono } from 'hono'

/** Beside the bundle in a build, made from its source when the server runs from source. */
export async function clientScript(name: 'pay' | 'site' | 'mcp-app'): Promise<string> {
  const built = fileURLToPath(new URL(`./${name}.client.js`, import.meta.url))
  if (existsSync(built)) return readFileSync(built, 'utf8')
  const { build } = await import('esbuild')
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`./client/${name}.ts`, import.meta.url))],
    bundle: true,
    minify: true,
    format: 'iife',
    target: 'es2022',
    write: false,
  })
  const [file] = outputFiles
  if (file === undefined) throw new Error(`the script ${name} could not be made`)
  return file.text
}

/** A script and the address it is served under: its hash is in the name, so it is cached for good. */
export type ClientScript = { text(): Promise<string>; path(): Promise<string> }

/** Found at the first request: from source the script has to be bundled first. */
export function servedScript(name: 'pay' | 'site', load: () => Promise<string> = () => clientScript(name)): ClientScript {
  let known: Promise<{ text: string; path: string }> | null = null
  const read = () => {
    known ??= load().then((text) => ({
      text,
      path: `/assets/${name}.${createHash('sha256').update(text).digest('hex').slice(0, 12)}.js`,
    }))
    return known
  }
  return { text: async () => (await read()).text, path: async () => (await read()).path }
}

export function mountScript<E extends Env>(app: Hono<E>, name: 'pay' | 'site', script: ClientScript): void {
  app.get(`/assets/:file{${name}\\.[0-9a-f]+\\.js}`, async (c) => {
    if (c.req.path !== (await script.path())) return c.notFound()
    return new Response(await script.text(), {
      headers: {
        'Content-Type': 'text/javascript; charset=utf-8',
        'X-Content-Type-Options': 'nosniff',
        'Cache-Control': 'public, max-age=31536000, immutable',
      },
    })
  })
}
