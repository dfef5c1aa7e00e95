import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The pay page's script: beside the bundle in a build, made from its source when the server runs from source. */
export async function payScript(): Promise<string> {
  const built = fileURLToPath(new URL('./pay.client.js', import.meta.url))
  if (existsSync(built)) return readFileSync(built, 'utf8')
  const { build } = await import('esbuild')
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('./client/pay.ts', import.meta.url))],
    bundle: true,
    minify: true,
    format: 'iife',
    target: 'es2022',
    write: false,
  })
  const [file] = outputFiles
  if (file === undefined) throw new Error('the script of the pay page could not be made')
  return file.text
}
