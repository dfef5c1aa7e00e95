import chromium from '@sparticuz/chromium'
import { type Browser, type Page, chromium as playwright } from 'playwright-core'
import type { Hex } from 'viem'
import type { HDAccount } from 'viem/accounts'
import type { TestChain } from './chain.ts'

/** Chromium from the registry package; nothing is installed on the machine. */
export async function startBrowser(): Promise<Browser> {
  // Not the package's own arguments: they turn the web's protections off, and those are under test.
  return playwright.launch({ executablePath: await chromium.executablePath(), args: ['--no-sandbox', '--disable-gpu'] })
}

export type TestWallet = { chainId: number; readonly asked: string[]; refuses: string | null }

/** A wallet extension: announces itself as wallets do (EIP-6963) and signs with a key of the test. */
export async function injectWallet(page: Page, chain: TestChain, account: HDAccount): Promise<TestWallet> {
  const wallet: TestWallet = { chainId: 1, asked: [], refuses: null }
  await page.exposeFunction('testWalletRequest', async (method: string, params: unknown[]): Promise<unknown> => {
    wallet.asked.push(method)
    if (method === wallet.refuses) return { failed: { code: 4001, message: 'User rejected the request.' } }
    switch (method) {
      case 'eth_requestAccounts':
        return [account.address]
      case 'eth_chainId':
        return `0x${wallet.chainId.toString(16)}`
      case 'wallet_switchEthereumChain':
        wallet.chainId = Number((params[0] as { chainId: string }).chainId)
        return null
      case 'eth_sendTransaction': {
        if (wallet.chainId !== chain.network.chainId) throw new Error('wrong chain')
        const { to, data } = params[0] as { to: Hex; data: Hex }
        return chain.walletFor(account).sendTransaction({ to, data })
      }
      case 'personal_sign':
        return account.signMessage({ message: { raw: params[0] as Hex } })
      default:
        throw new Error(`the wallet does not know ${method}`)
    }
  })
  await page.addInitScript(() => {
    type Result = { failed?: { code: number; message: string } } | null
    const scope = globalThis as unknown as {
      testWalletRequest(method: string, params: unknown): Promise<Result>
      addEventListener(name: string, run: () => void): void
      dispatchEvent(event: unknown): void
      CustomEvent: new (name: string, init: unknown) => unknown
    }
    const provider = {
      async request({ method, params }: { method: string; params?: unknown }) {
        const result = await scope.testWalletRequest(method, params ?? [])
        if (result?.failed) throw Object.assign(new Error(result.failed.message), result.failed)
        return result
      },
    }
    const info = { uuid: '350670db-19fa-4704-a166-e52e178b59d2', name: 'Test Wallet', icon: 'data:,', rdns: 'test.wallet' }
    const announce = () =>
      scope.dispatchEvent(new scope.CustomEvent('eip6963:announceProvider', { detail: Object.freeze({ info, provider }) }))
    scope.addEventListener('eip6963:requestProvider', announce)
    announce()
  })
  return wallet
}
