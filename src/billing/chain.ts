import {
  type Address,
  BaseError,
  createPublicClient,
  getAbiItem,
  type Hex,
  http,
  type PublicClient,
  parseAbi,
  parseEventLogs,
  RpcRequestError,
  TransactionReceiptNotFoundError,
} from 'viem'
import { DomainError } from '../core/errors.ts'
import type { Network } from './networks.ts'
import type { UsdcUnits } from './packs.ts'

const RPC_TIMEOUT_MS = 8_000
const SMALLEST_RANGE = 10n
/** How long a node that answered with the right chain id is believed to stay on that chain. */
const CHAIN_ID_TTL_MS = 60_000

export const USDC_ABI = parseAbi([
  'event Transfer(address indexed from, address indexed to, uint256 value)',
  'event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)',
  'function authorizationState(address authorizer, bytes32 nonce) view returns (bool)',
  'function balanceOf(address account) view returns (uint256)',
])
const TRANSFER = getAbiItem({ abi: USDC_ABI, name: 'Transfer' })
const AUTHORIZATION_USED = getAbiItem({ abi: USDC_ABI, name: 'AuthorizationUsed' })

/** One USDC movement. Addresses are in lower case. */
export type Transfer = {
  readonly txHash: Hex
  /** Place among the logs of its transaction; the chain's own index counts within the block and changes when the block does. */
  readonly logIndex: number
  readonly payer: Address
  readonly receiver: Address
  readonly units: UsdcUnits
  /** Of the EIP-3009 authorization that made it. */
  readonly nonce: Hex | null
  readonly blockNumber: bigint
  readonly blockHash: Hex
}
export type Receipt = {
  readonly success: boolean
  readonly blockNumber: bigint
  readonly blockHash: Hex
  /** 1 when it is in the newest block. */
  readonly confirmations: number
  readonly transfers: readonly Transfer[]
}
export type Block = { readonly number: bigint; readonly hash: Hex; readonly time_ms: number }

const lower = (address: Address): Address => address.toLowerCase() as Address

type Node = { readonly client: PublicClient; checkedMs: number }

/**
 * Reads one chain through a primary node and a fallback. A node that fails, answers late or is on another chain is passed over.
 * Every method throws DomainError `rpc_error` when no node is left.
 */
export class Chain {
  readonly network: Network
  readonly usdc: Address
  readonly #nodes: readonly Node[]

  constructor(network: Network, options: { rpcUrls: readonly string[]; usdc: Address; timeout_ms?: number }) {
    this.network = network
    this.usdc = lower(options.usdc)
    this.#nodes = options.rpcUrls.map((url) => ({
      client: createPublicClient({
        chain: network.viem,
        transport: http(url, { timeout: options.timeout_ms ?? RPC_TIMEOUT_MS, retryCount: 0 }),
      }) as PublicClient,
      checkedMs: Number.NEGATIVE_INFINITY,
    }))
  }

  head(): Promise<Block> {
    return this.#ask((client) => blockOf(client.getBlock({ blockTag: 'latest' })))
  }

  /** The newest block that can no longer be undone. */
  finalized(): Promise<Block> {
    return this.#ask((client) => blockOf(client.getBlock({ blockTag: 'finalized' })))
  }

  blockHash(number: bigint): Promise<Hex> {
    return this.#ask(async (client) => (await blockOf(client.getBlock({ blockNumber: number }))).hash)
  }

  /** The receipt of a mined transaction with its USDC transfers; null when no node knows it. */
  async receipt(txHash: Hex): Promise<Receipt | null> {
    let failed = true
    let failure: unknown
    for (const node of this.#nodes) {
      try {
        const found = await this.#askNode(node, (client) => receiptOf(client, this.usdc, txHash))
        if (found !== null) return found
        failed = false
      } catch (error) {
        failure = error
      }
    }
    // A node that lags does not know the transaction yet: only a node that could be asked may say that it is not there.
    if (failed) throw rpcError(failure)
    return null
  }

  /** Hashes of the transactions with a transfer to (or from) one of our addresses, in order. */
  async transactionsWith(
    side: 'to' | 'from',
    addresses: readonly Address[],
    from: bigint,
    to: bigint,
  ): Promise<{ txHash: Hex; blockHash: Hex }[]> {
    const range = { from, to }
    const ask = ({ from, to }: typeof range) =>
      this.#ask((client) =>
        client.getLogs({
          address: this.usdc,
          event: TRANSFER,
          args: side === 'to' ? { to: [...addresses] } : { from: [...addresses] },
          fromBlock: from,
          toBlock: to,
          strict: true,
        }),
      )
    const logs = await inParts(range, ask)
    const seen = new Map<Hex, Hex>()
    for (const log of logs) seen.set(log.transactionHash, log.blockHash)
    return [...seen].map(([txHash, blockHash]) => ({ txHash, blockHash }))
  }

  isAuthorizationUsed(payer: Address, nonce: Hex): Promise<boolean> {
    return this.#ask((client) =>
      client.readContract({ address: this.usdc, abi: USDC_ABI, functionName: 'authorizationState', args: [payer, nonce] }),
    )
  }

  /** The transaction that used an authorization, in `fromBlock` or later; null when there is none. */
  async authorizationTransaction(payer: Address, nonce: Hex, fromBlock: bigint): Promise<Hex | null> {
    if (!(await this.isAuthorizationUsed(payer, nonce))) return null
    return this.#ask(async (client) => {
      const logs = await client.getLogs({
        address: this.usdc,
        event: AUTHORIZATION_USED,
        args: { authorizer: payer, nonce },
        fromBlock,
        toBlock: 'latest',
      })
      return logs[0]?.transactionHash ?? null
    })
  }

  balanceOf(address: Address, blockNumber: bigint): Promise<UsdcUnits> {
    return this.#ask((client) =>
      client.readContract({ address: this.usdc, abi: USDC_ABI, functionName: 'balanceOf', args: [address], blockNumber }),
    )
  }

  /** True when `address` signed the message (EIP-191): an ordinary key, a contract wallet (ERC-1271) or one not deployed yet (ERC-6492). */
  verifyMessage(address: Address, message: string, signature: Hex): Promise<boolean> {
    return this.#ask(async (client) => {
      const isValid = await client.verifyMessage({ address, message, signature })
      // The library also says "invalid" when the node fails during the check: a "no" counts only from a node that answers.
      if (!isValid) await client.getBlockNumber({ cacheTime: 0 })
      return isValid
    })
  }

  async #ask<T>(question: (client: PublicClient) => Promise<T>): Promise<T> {
    let failure: unknown
    for (const node of this.#nodes) {
      try {
        return await this.#askNode(node, question)
      } catch (error) {
        failure = error
      }
    }
    throw rpcError(failure)
  }

  async #askNode<T>(node: Node, question: (client: PublicClient) => Promise<T>): Promise<T> {
    const now = performance.now()
    if (now - node.checkedMs > CHAIN_ID_TTL_MS) {
      const chainId = await node.client.getChainId()
      if (chainId !== this.network.chainId) throw new Error(`the node is on chain ${chainId}, not ${this.network.chainId}`)
      node.checkedMs = now
    }
    try {
      return await question(node.client)
    } catch (error) {
      // After a failure the address may be answered by another node.
      node.checkedMs = Number.NEGATIVE_INFINITY
      throw error
    }
  }
}

/** Nodes limit how many blocks one query may span, each in its own way: what one refuses is asked in halves. */
async function inParts<T>(
  range: { from: bigint; to: bigint },
  ask: (range: { from: bigint; to: bigint }) => Promise<T[]>,
): Promise<T[]> {
  try {
    return await ask(range)
  } catch (error) {
    const cause = error instanceof DomainError ? error.cause : error
    const isRefused = cause instanceof BaseError && cause.walk((one) => one instanceof RpcRequestError) !== null
    if (!isRefused || range.to - range.from < SMALLEST_RANGE) throw error
    const middle = (range.from + range.to) / 2n
    return [
      ...(await inParts({ from: range.from, to: middle }, ask)),
      ...(await inParts({ from: middle + 1n, to: range.to }, ask)),
    ]
  }
}

const rpcError = (cause: unknown): DomainError => new DomainError('rpc_error', { cause, retryAfterSeconds: 5 })

async function blockOf(asked: Promise<{ number: bigint | null; hash: Hex | null; timestamp: bigint }>): Promise<Block> {
  const { number, hash, timestamp } = await asked
  if (number === null || hash === null) throw new Error('the node answered with a block that is not mined')
  return { number, hash, time_ms: Number(timestamp) * 1000 }
}

async function receiptOf(client: PublicClient, usdc: Address, txHash: Hex): Promise<Receipt | null> {
  try {
    const receipt = await client.getTransactionReceipt({ hash: txHash })
    const head = await client.getBlockNumber({ cacheTime: 0 })
    const { status, blockNumber, blockHash, logs } = receipt
    const confirmations = head < blockNumber ? 0 : Number(head - blockNumber) + 1
    const transfers = status === 'success' ? transfersIn(logs, usdc) : []
    return { success: status === 'success', blockNumber, blockHash, confirmations, transfers }
  } catch (error) {
    if (error instanceof TransactionReceiptNotFoundError) return null
    throw error
  }
}

type ReceiptLogs = Awaited<ReturnType<PublicClient['getTransactionReceipt']>>['logs']

/** USDC's own events of one transaction. `AuthorizationUsed` sits right before the transfer it made. */
function transfersIn(logs: ReceiptLogs, usdc: Address): Transfer[] {
  const first = logs[0]?.logIndex ?? 0
  const own = parseEventLogs({ abi: USDC_ABI, logs: logs.filter((log) => lower(log.address) === usdc), strict: true })
  const byIndex = new Map(own.map((log) => [log.logIndex, log]))
  return own.flatMap((log): Transfer[] => {
    if (log.eventName !== 'Transfer') return []
    const before = byIndex.get(log.logIndex - 1)
    const isAuthorized = before?.eventName === 'AuthorizationUsed' && lower(before.args.authorizer) === lower(log.args.from)
    return [
      {
        txHash: log.transactionHash,
        logIndex: log.logIndex - first,
        payer: lower(log.args.from),
        receiver: lower(log.args.to),
        units: log.args.value,
        nonce: isAuthorized ? before.args.nonce : null,
        blockNumber: log.blockNumber,
        blockHash: log.blockHash,
      },
    ]
  })
}
