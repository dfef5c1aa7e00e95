import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import {
  type Address,
  createTestClient,
  createWalletClient,
  encodeDeployData,
  type Hex,
  http,
  keccak256,
  parseAbi,
  publicActions,
  toHex,
  walletActions,
} from 'viem'
import { type HDAccount, mnemonicToAccount } from 'viem/accounts'
import { NETWORKS, type Network, type NetworkId } from '../../src/billing/networks.ts'

/** Anvil's public test phrase: these keys hold nothing anywhere. */
const MNEMONIC = 'test test test test test test test test test test test junk'
const MULTICALL3 = '0xcA11bde05977b3631167028862bE2a173976CA11'
const START_TIMEOUT_MS = 20_000

/** What tests call on the token. */
export const TOKEN_ABI = parseAbi([
  'function mint(address to, uint256 value)',
  'function transfer(address to, uint256 value) returns (bool)',
  'function approve(address spender, uint256 value) returns (bool)',
  'function balanceOf(address account) view returns (uint256)',
  'function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature)',
])
const BATCH_ABI = parseAbi(['function send(address token, address[] from, address[] to, uint256[] value)'])
const WALLET_ABI = parseAbi(['constructor(address owner)', 'function exec(address to, bytes data)'])
const FACTORY_ABI = parseAbi([
  'function deploy(address owner, bytes32 salt) returns (address)',
  'function initCodeHash(address owner) pure returns (bytes32)',
])

type Artifact = { readonly abi: unknown; readonly bytecode: Hex; readonly deployed: Hex }
const artifacts = JSON.parse(readFileSync(join(import.meta.dirname, 'contracts/artifacts.json'), 'utf8')) as Record<
  'TestUSDC' | 'MiniMulticall3' | 'Wallet1271' | 'WalletFactory' | 'Batch' | 'Lookalike',
  Artifact
>

/** One of Anvil's funded accounts. 0 pays gas for the facilitator, 9 for minting. */
export const walletAt = (index: number): HDAccount => mnemonicToAccount(MNEMONIC, { addressIndex: index })
export const keyAt = (index: number): Hex => toHex(walletAt(index).getHdKey().privateKey ?? new Uint8Array())

export type TestChain = Awaited<ReturnType<typeof startChain>>

/**
 * A local chain with USDC at its usual address. Blocks are made by transactions, or every `blockTime_s`; a block is final two blocks
 * later, or twice `finalAfter`.
 */
export async function startChain(options: { networkId?: NetworkId; blockTime_s?: number; finalAfter?: number } = {}) {
  const network = NETWORKS[options.networkId ?? 'eip155:84532']
  const anvil = await startAnvil(network, options)
  const transport = http(anvil.url)
  const client = createTestClient({ chain: network.viem, transport, mode: 'anvil', pollingInterval: 30 })
    .extend(publicActions)
    .extend(walletActions)
  const usdc = network.usdc
  await client.setCode({ address: usdc, bytecode: artifacts.TestUSDC.deployed })
  await client.setCode({ address: MULTICALL3, bytecode: artifacts.MiniMulticall3.deployed })

  const walletFor = (account: HDAccount) =>
    createWalletClient({ account, chain: network.viem, transport, pollingInterval: 30 }).extend(publicActions)
  const minter = walletAt(9).address
  // One account does all the minting and deploying: one transaction at a time.
  let last: Promise<unknown> = Promise.resolve()
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = last.then(work)
    last = done.catch(() => {})
    return done
  }
  const mined = async (hash: Hex): Promise<Hex> => {
    await client.waitForTransactionReceipt({ hash })
    return hash
  }
  const deploy = async (artifact: Artifact, data: Hex = artifact.bytecode): Promise<Address> => {
    const hash = await inTurn(() => client.sendTransaction({ account: minter, data }).then(mined))
    const { contractAddress } = await client.waitForTransactionReceipt({ hash })
    if (!contractAddress) throw new Error('nothing was deployed')
    return contractAddress
  }
  const call = (
    account: HDAccount,
    to: Address,
    functionName: 'mint' | 'transfer' | 'approve',
    args: readonly [Address, bigint],
  ) => walletFor(account).writeContract({ address: to, abi: TOKEN_ABI, functionName, args: [...args] })

  return {
    network,
    usdc,
    url: anvil.url,
    pid: anvil.pid,
    client,
    walletFor,
    /** New USDC out of nothing. */
    mint: (to: Address, units: bigint) =>
      inTurn(async () =>
        mined(
          await client.writeContract({ account: minter, address: usdc, abi: TOKEN_ABI, functionName: 'mint', args: [to, units] }),
        ),
      ),
    balanceOf: (address: Address) =>
      client.readContract({ address: usdc, abi: TOKEN_ABI, functionName: 'balanceOf', args: [address] }),
    /** An ordinary transfer, mined. */
    transfer: async (from: HDAccount, to: Address, units: bigint) => mined(await call(from, usdc, 'transfer', [to, units])),
    /** Several transfers in one transaction. */
    transferAll: async (from: HDAccount, parts: readonly { to: Address; units: bigint }[]) => {
      const batch = await deploy(artifacts.Batch)
      await mined(await call(from, usdc, 'approve', [batch, parts.reduce((sum, { units }) => sum + units, 0n)]))
      const args = [usdc, parts.map(() => from.address), parts.map(({ to }) => to), parts.map(({ units }) => units)] as const
      return mined(await walletFor(from).writeContract({ address: batch, abi: BATCH_ABI, functionName: 'send', args }))
    },
    /** A transaction that fails on the chain. */
    failingTransfer: async (from: HDAccount, to: Address) => {
      const hash = await walletFor(from).writeContract({
        address: usdc,
        abi: TOKEN_ABI,
        functionName: 'transfer',
        args: [to, 10n ** 30n],
        gas: 100_000n,
      })
      return mined(hash)
    },
    /** A transfer of a token that only looks like USDC. */
    lookalikeTransfer: async (from: HDAccount, to: Address, units: bigint) => {
      const token = await deploy(artifacts.Lookalike)
      await mined(await call(from, token, 'mint', [from.address, units]))
      return mined(await call(from, token, 'transfer', [to, units]))
    },
    /** A contract wallet whose owner is `owner`. */
    deployWallet: (owner: HDAccount) =>
      deploy(
        artifacts.Wallet1271,
        encodeDeployData({ abi: WALLET_ABI, bytecode: artifacts.Wallet1271.bytecode, args: [owner.address] }),
      ),
    /** Lets a contract wallet send USDC. */
    walletTransfer: async (owner: HDAccount, wallet: Address, data: Hex) =>
      mined(await walletFor(owner).writeContract({ address: wallet, abi: WALLET_ABI, functionName: 'exec', args: [usdc, data] })),
    /** The address that a wallet of `owner` would get, with what deploys it (ERC-6492). */
    plannedWallet: async (owner: HDAccount) => {
      const factory = await deploy(artifacts.WalletFactory)
      const salt = keccak256(toHex('wallet'))
      const { result: address } = await client.simulateContract({
        account: owner.address,
        address: factory,
        abi: FACTORY_ABI,
        functionName: 'deploy',
        args: [owner.address, salt],
      })
      return { address, factory, salt }
    },
    mine: (blocks: number) => client.mine({ blocks }),
    /** Replaces the newest blocks by others: empty ones, or with these signed transactions in the first of them. */
    reorganise: (depth: number, transactions: readonly Hex[] = []) =>
      client.request<{ Method: 'anvil_reorg'; Parameters: [number, [Hex, number][]]; ReturnType: null }>({
        method: 'anvil_reorg',
        params: [depth, transactions.map((transaction) => [transaction, 0])],
      }),
    stop: anvil.stop,
  }
}

async function startAnvil(network: Network, { blockTime_s, finalAfter = 1 }: { blockTime_s?: number; finalAfter?: number }) {
  const binary = anvilBinary()
  const mining = blockTime_s === undefined ? [] : ['--block-time', String(blockTime_s)]
  const child = spawn(
    binary,
    [
      '--host',
      '127.0.0.1',
      '--port',
      '0',
      '--chain-id',
      String(network.chainId),
      '--mnemonic',
      MNEMONIC,
      '--slots-in-an-epoch',
      String(finalAfter),
      ...mining,
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  )
  // A chain must not outlive whoever started it: this shell ends with our pipe, and takes the chain with it.
  const watchdog = spawn('sh', ['-c', 'read -r _; kill -KILL "$1" 2> /dev/null', 'watchdog', String(child.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  watchdog.unref()
  watchdog.stdin.on('error', () => {})
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  void ended.then(() => watchdog.kill('SIGKILL'))
  const url = await new Promise<string>((resolve, reject) => {
    let output = ''
    const late = setTimeout(() => reject(new Error(`the chain did not start: ${output}`)), START_TIMEOUT_MS)
    const read = (text: string) => {
      output += text
      const match = /Listening on (127\.0\.0\.1:\d+)/.exec(output)
      if (!match) return
      clearTimeout(late)
      resolve(`http://${match[1]}`)
    }
    child.stdout.setEncoding('utf8').on('data', read)
    child.stderr.setEncoding('utf8').on('data', read)
    void ended.then(() => reject(new Error(`the chain ended: ${output}`)))
  })
  const stop = async () => {
    child.kill('SIGKILL')
    await ended
  }
  return { url, pid: child.pid, stop }
}

/** The package for this machine holds the program itself; no install script is needed. */
function anvilBinary(): string {
  const require = createRequire(import.meta.url)
  const platform = `${process.platform}-${process.arch === 'x64' ? 'amd64' : process.arch}`
  return require.resolve(`@foundry-rs/anvil-${platform}/bin/anvil`, {
    paths: [require.resolve('@foundry-rs/anvil/package.json')],
  })
}
