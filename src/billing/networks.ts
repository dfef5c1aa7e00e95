import { type Address, defineChain, type Chain as ViemChain } from 'viem'

export const NETWORK_IDS = ['eip155:8453', 'eip155:84532'] as const
export type NetworkId = (typeof NETWORK_IDS)[number]

/** A chain that top-ups run on, and what its USDC is called there. */
export type Network = {
  readonly id: NetworkId
  readonly chainId: number
  /** In words, for people. */
  readonly name: string
  /** What x402 version 1 calls it. */
  readonly v1Name: string
  readonly usdc: Address
  /** Name and version of the token's EIP-712 domain, which every authorization is signed under. */
  readonly domain: { readonly name: string; readonly version: string }
  readonly publicRpc: string
  readonly explorer: string
  readonly viem: ViemChain
}

/** Only what is used here: the library's own list would load every chain there is. */
const viemChain = (id: number, name: string, rpcUrl: string): ViemChain =>
  defineChain({
    id,
    name,
    nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
    rpcUrls: { default: { http: [rpcUrl] } },
    contracts: { multicall3: { address: '0xca11bde05977b3631167028862be2a173976ca11' } },
  })

export const NETWORKS: Readonly<Record<NetworkId, Network>> = {
  'eip155:8453': {
    id: 'eip155:8453',
    chainId: 8453,
    name: 'Base',
    v1Name: 'base',
    usdc: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913',
    domain: { name: 'USD Coin', version: '2' },
    publicRpc: 'https://mainnet.base.org',
    explorer: 'https://basescan.org',
    viem: viemChain(8453, 'Base', 'https://mainnet.base.org'),
  },
  'eip155:84532': {
    id: 'eip155:84532',
    chainId: 84532,
    name: 'Base Sepolia (test network)',
    v1Name: 'base-sepolia',
    usdc: '0x036CbD53842c5426634e7929541eC2318f3dCF7e',
    domain: { name: 'USDC', version: '2' },
    publicRpc: 'https://sepolia.base.org',
    explorer: 'https://sepolia.basescan.org',
    viem: viemChain(84532, 'Base Sepolia', 'https://sepolia.base.org'),
  },
}

/** What the holder of USDC signs so that somebody else may move it (EIP-3009), as EIP-712 types. */
export const AUTHORIZATION_TYPES = {
  TransferWithAuthorization: [
    { name: 'from', type: 'address' },
    { name: 'to', type: 'address' },
    { name: 'value', type: 'uint256' },
    { name: 'validAfter', type: 'uint256' },
    { name: 'validBefore', type: 'uint256' },
    { name: 'nonce', type: 'bytes32' },
  ],
} as const
