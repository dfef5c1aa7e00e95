// Keeps what this release runs with (the built server and its migrations) as test/fixtures/releases/VERSION.tgz, in place of the one before.
// test/e2e/previous-release.test.ts runs it beside the code of the next release. Run it when a release is tagged.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { transformSync } from 'esbuild'

const MOST_BYTES = 3_000_000
const FOLDER = 'test/fixtures/releases'
const { name, version, type } = JSON.parse(readFileSync('package.json', 'utf8'))

execFileSync(process.execPath, ['scripts/build.mjs'], { stdio: 'inherit' })
mkdirSync('.tmp', { recursive: true })
const scratch = mkdtempSync('.tmp/release-')
try {
  mkdirSync(`${scratch}/dist`)
  for (const file of readdirSync('dist').filter((one) => one === 'main.js' || one.endsWith('.client.js'))) {
    const { code } = transformSync(readFileSync(`dist/${file}`, 'utf8'), { minify: true, keepNames: true, legalComments: 'none' })
    writeFileSync(`${scratch}/dist/${file}`, code)
  }
  cpSync('migrations', `${scratch}/migrations`, { recursive: true })
  // Of the snapshots nothing is read at a start.
  for (const file of readdirSync(`${scratch}/migrations/meta`))
    if (file !== '_journal.json') rmSync(`${scratch}/migrations/meta/${file}`)
  writeFileSync(`${scratch}/package.json`, `${JSON.stringify({ name, version, type, private: true })}\n`)
  mkdirSync(FOLDER, { recursive: true })
  for (const old of readdirSync(FOLDER).filter((file) => file.endsWith('.tgz'))) rmSync(`${FOLDER}/${old}`)
  const archive = `${FOLDER}/${version}.tgz`
  execFileSync('tar', ['-czf', archive, '--sort=name', '--mtime=@0', '--owner=0', '--group=0', '-C', scratch, '.'])
  const { size } = statSync(archive)
  if (!existsSync(archive) || size > MOST_BYTES) throw new Error(`${archive} has ${size} bytes, more than ${MOST_BYTES}`)
  console.log(`${archive}: ${size} bytes`)
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
