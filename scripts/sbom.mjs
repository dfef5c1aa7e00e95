// Writes the software bill of materials (CycloneDX) of what is shipped to standard output: the packages inside the bundle and those that an
// installation brings. `npm sbom` knows the whole tree, test tools too; the build knows what went into the bundle.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

const options = { encoding: 'utf8', maxBuffer: 256 * 1024 * 1024, stdio: ['ignore', 'pipe', 'ignore'] }
const everything = JSON.parse(execFileSync('npm', ['sbom', '--sbom-format=cyclonedx', '--sbom-type=application'], options))
// By the lockfile: `npm sbom --omit=dev` leaves out packages that a test tool needs as well.
const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8'))
const installed = new Set(
  Object.entries(packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && !dev && !devOptional)
    .map(([path, { name, version }]) => `${name ?? path.slice(path.lastIndexOf('node_modules/') + 13)}@${version}`),
)
const bundled = new Set(JSON.parse(readFileSync('dist/bundled.json', 'utf8')))
const nameOf = ({ group, name, version }) => `${group ? `${group}/` : ''}${name}@${version}`
const components = everything.components.filter((component) => installed.has(nameOf(component)) || bundled.has(nameOf(component)))
const refs = new Set([everything.metadata.component['bom-ref'], ...components.map((component) => component['bom-ref'])])
const dependencies = everything.dependencies
  .filter(({ ref }) => refs.has(ref))
  .map(({ ref, dependsOn = [] }) => ({ ref, dependsOn: dependsOn.filter((one) => refs.has(one)) }))
const missing = [...bundled].filter((name) => !components.some((component) => nameOf(component) === name))
if (missing.length > 0) throw new Error(`not in the tree: ${missing.join(', ')}`)
console.log(JSON.stringify({ ...everything, components, dependencies }, null, 2))
