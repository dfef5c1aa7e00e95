// Compiles the contracts of this folder into artifacts.json. Only needed when one of them changes.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const SOLC = 'solc@0.8.37'
const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.sol'))
const input = {
  language: 'Solidity',
  sources: Object.fromEntries(files.map((file) => [file, { content: readFileSync(join(import.meta.dirname, file), 'utf8') }])),
  settings: {
    evmVersion: 'paris',
    metadata: { bytecodeHash: 'none' },
    optimizer: { enabled: true, runs: 200 },
    outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
  },
}
const { stdout, stderr } = spawnSync('npx', ['--yes', SOLC, '--standard-json'], {
  input: JSON.stringify(input),
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
})
const output = JSON.parse(stdout.slice(stdout.indexOf('{')))
const errors = (output.errors ?? []).filter((error) => error.severity === 'error')
if (errors.length > 0) throw new Error(errors.map((error) => error.formattedMessage).join('\n') + stderr)

const artifacts = {}
for (const contracts of Object.values(output.contracts))
  for (const [name, { abi, evm }] of Object.entries(contracts))
    if (evm.bytecode.object !== '')
      artifacts[name] = { abi, bytecode: `0x${evm.bytecode.object}`, deployed: `0x${evm.deployedBytecode.object}` }
writeFileSync(join(import.meta.dirname, 'artifacts.json'), `${JSON.stringify(artifacts, null, 1)}\n`)
console.log(Object.keys(artifacts).join(', '))
