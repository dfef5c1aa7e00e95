// Adds to package-lock.json the optional packages of other platforms that npm left out because the registry it was made
// with does not carry them (a partial mirror). Without them `npm ci` of npm 11 refuses the lockfile on any machine. They
// are never fetched where they do not fit; where they do, npm takes exactly the version that their owner asks for.
// `--check` changes nothing and fails when something is missing. Run it after every change of dependencies.
import { readFileSync, writeFileSync } from 'node:fs'

const OPERATING_SYSTEMS = {
  aix: 'aix',
  android: 'android',
  darwin: 'darwin',
  freebsd: 'freebsd',
  fsevents: 'darwin',
  linux: 'linux',
  netbsd: 'netbsd',
  openbsd: 'openbsd',
  openharmony: 'openharmony',
  sunos: 'sunos',
  win32: 'win32',
  windows: 'win32',
}
const PROCESSORS = ['arm64', 'arm', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64']
const LIBRARIES = { gnu: 'glibc', gnueabihf: 'glibc', musl: 'musl', musleabihf: 'musl' }

const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'))
const { packages } = lock
const added = []

for (const [owner, entry] of Object.entries(packages)) {
  for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
    const path = `node_modules/${name}`
    if (packages[path] !== undefined || packages[`${owner}/${path}`] !== undefined) continue
    packages[path] = { version: versionOf(range), ...(entry.dev ? { dev: true } : {}), optional: true, ...platformOf(name) }
    added.push(path)
  }
}

if (added.length > 0 && process.argv.includes('--check')) {
  console.error(
    `package-lock.json lacks ${added.length} optional packages: run node scripts/complete-lockfile.mjs\n${added.join('\n')}`,
  )
  process.exitCode = 1
} else if (added.length > 0) {
  lock.packages = Object.fromEntries(Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : 1)))
  writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`)
  console.log(`added ${added.length} packages`)
}

/** Platform packages are asked for in one version, the lowest that a range names. */
function versionOf(range) {
  return range.replace(/^npm:.*@/, '').replace(/^[~^]/, '')
}

function platformOf(name) {
  const words = name.split(/[^a-z0-9]+/)
  const os = words.map((word) => OPERATING_SYSTEMS[word]).filter(Boolean)
  const cpu = words.filter((word) => PROCESSORS.includes(word))
  const libc = words.map((word) => LIBRARIES[word]).filter(Boolean)
  return { ...(os.length ? { os } : {}), ...(cpu.length ? { cpu } : {}), ...(libc.length ? { libc } : {}) }
}
