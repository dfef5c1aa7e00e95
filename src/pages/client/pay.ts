/** The pay page's script: pays with an injected wallet (EIP-1193, found by EIP-6963) and follows the payment until it is credited. */

type Provider = { request(call: { method: string; params?: unknown }): Promise<unknown> }
type Wallet = { readonly name: string; readonly provider: Provider }
type Answer = { readonly status: number; readonly body: Record<string, unknown> }

const POLL_MS = 2_000
/** Some wallets answer "not added" with this code. */
const UNKNOWN_CHAIN = 4902
const USER_REFUSED = 4001
const TRANSFER = '0xa9059cbb'

const find = <E extends HTMLElement>(id: string): E | null => document.getElementById(id) as E | null
const pause = (wait_ms: number) => new Promise<void>((resolve) => setTimeout(resolve, wait_ms))
const number = (value: unknown): string => Number(value).toLocaleString('en-US')

previewAmount()
enableCopying()
const payment = find('payment')
if (payment) startPayment(payment)

function previewAmount(): void {
  const input = find<HTMLInputElement>('usd')
  const preview = find('preview')
  input?.addEventListener('input', () => {
    const match = /^(\d{1,3})(?:\.(\d{1,2}))?$/.exec(input.value)
    if (!preview) return
    if (match === null) {
      preview.textContent = 'From $1 to $100, whole cents'
      return
    }
    const [, dollars = '0', cents = ''] = match
    preview.textContent = `${number(Number(dollars) * 1000 + Number(cents.padEnd(2, '0')) * 10)} operations`
  })
  // The rest of the page is about the amount it was made for: another one is another page.
  input?.addEventListener('change', () => {
    if (isAmountChanged()) input.form?.requestSubmit()
  })
}

const isAmountChanged = (): boolean => {
  const input = find<HTMLInputElement>('usd')
  return input !== null && input.value !== input.defaultValue
}

function enableCopying(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>('button.copy')) {
    const label = button.textContent
    button.hidden = false
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(find(button.dataset.copy ?? '')?.textContent ?? '')
      button.textContent = 'Copied'
      await pause(POLL_MS)
      button.textContent = label
    })
  }
}

function startPayment(section: HTMLElement): void {
  const terms = {
    units: BigInt(section.dataset.units ?? '0'),
    chainId: Number(section.dataset.chainId),
    network: section.dataset.network ?? '',
    explorer: section.dataset.explorer ?? '',
    usdc: section.dataset.usdc ?? '',
    address: section.dataset.address ?? '',
    isOwn: section.dataset.own === 'true',
    key: section.dataset.key ?? '',
  }
  const status = find('status')
  const tell = (text: string, kind: 'busy' | 'done' | 'error', link?: { href: string; text: string }): void => {
    if (!status) return
    status.hidden = false
    status.className = kind
    status.textContent = text
    if (link) {
      const anchor = document.createElement('a')
      anchor.href = link.href
      anchor.textContent = link.text
      anchor.rel = 'noreferrer'
      status.append(' ', anchor)
    }
  }

  async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(path, {
      method,
      headers: { Authorization: `Bearer ${terms.key}`, ...(body !== undefined && { 'Content-Type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json()) as Record<string, unknown> }
  }

  /** Claims a transaction until it is credited; asks for a signature when one is needed. */
  async function follow(txHash: string, sign: ((message: string) => Promise<string>) | null): Promise<void> {
    const link = { href: `${terms.explorer}/tx/${txHash}`, text: 'See the transaction' }
    let signature: string | undefined
    for (;;) {
      const { status: code, body } = await ask('POST', '/v1/account/topup-verify', {
        tx_hash: txHash,
        ...(signature !== undefined && { signature }),
      })
      if (code === 200) {
        const balance = find('balance')
        if (balance) balance.textContent = number(body.operations_remaining)
        tell(`Credited ${number(body.credited_ops)} operations. You have ${number(body.operations_remaining)}.`, 'done', link)
        return
      }
      if (body.error === 'signature_required' && sign !== null) {
        tell(
          'Confirm in your wallet that this payment is for your account: it asks for a signature, which costs nothing.',
          'busy',
          link,
        )
        signature = await sign(String(body.message))
      } else if (body.error === 'tx_not_found') tell('Waiting for the payment to reach the chain.', 'busy', link)
      else if (body.error === 'not_final')
        tell(`Block ${number(body.confirmations)} of ${number(body.required_confirmations)}.`, 'busy', link)
      else if (body.retryable !== true) {
        tell(String(body.hint ?? 'The payment could not be credited.'), 'error', link)
        return
      }
      if (body.error !== 'signature_required') await pause(POLL_MS)
    }
  }

  async function pay({ provider }: Wallet): Promise<void> {
    tell('Connecting to your wallet.', 'busy')
    const accounts = (await provider.request({ method: 'eth_requestAccounts' })) as string[]
    const from = accounts[0]
    if (from === undefined) throw new Error('the wallet gave no account')
    await switchChain(provider)
    tell('Confirm the payment in your wallet.', 'busy')
    const word = (hex: string) => hex.replace(/^0x/, '').toLowerCase().padStart(64, '0')
    const data = TRANSFER + word(terms.address) + word(terms.units.toString(16))
    const txHash = (await provider.request({
      method: 'eth_sendTransaction',
      params: [{ from, to: terms.usdc, data, value: '0x0' }],
    })) as string
    const field = find<HTMLInputElement>('tx_hash')
    if (field) field.value = txHash
    const hex = (text: string) =>
      `0x${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`
    await follow(txHash, async (message) => {
      return (await provider.request({ method: 'personal_sign', params: [hex(message), from] })) as string
    })
  }

  async function switchChain(provider: Provider): Promise<void> {
    const chainId = `0x${terms.chainId.toString(16)}`
    if ((await provider.request({ method: 'eth_chainId' })) === chainId) return
    tell(`Confirm in your wallet to switch to ${terms.network}.`, 'busy')
    try {
      await provider.request({ method: 'wallet_switchEthereumChain', params: [{ chainId }] })
    } catch (error) {
      if (codeOf(error) !== UNKNOWN_CHAIN) throw error
      const rpc = terms.chainId === 8453 ? 'https://mainnet.base.org' : 'https://sepolia.base.org'
      await provider.request({
        method: 'wallet_addEthereumChain',
        params: [
          {
            chainId,
            chainName: terms.network,
            nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
            rpcUrls: [rpc],
            blockExplorerUrls: [terms.explorer],
          },
        ],
      })
    }
  }

  let isBusy = false
  const payOnce = async (wallet: Wallet): Promise<void> => {
    if (isBusy || isAmountChanged()) return
    isBusy = true
    try {
      await pay(wallet)
    } catch (error) {
      const refused = codeOf(error) === USER_REFUSED
      tell(refused ? 'You declined in your wallet. Nothing was paid.' : `The wallet says: ${textOf(error)}`, 'error')
    } finally {
      isBusy = false
    }
  }
  offerWallets((wallet) => void payOnce(wallet))

  find<HTMLFormElement>('claim')?.addEventListener('submit', (event) => {
    const field = find<HTMLInputElement>('tx_hash')
    const signature = find<HTMLInputElement>('signature')?.value
    // A shared address needs a signature, which the server's page explains; the rest needs no new page.
    if (!field || signature || !terms.isOwn) return
    event.preventDefault()
    if (isBusy) return
    void follow(field.value.trim(), null).catch((error: unknown) => tell(textOf(error), 'error'))
  })
  if (terms.isOwn) void watchDeposits(ask, tell)
}

/** An own address is credited without a claim: the page shows it when it happens. */
async function watchDeposits(
  ask: (method: string, path: string) => Promise<Answer>,
  tell: (text: string, kind: 'done') => void,
): Promise<void> {
  const latest = async () => {
    const { body } = await ask('GET', '/v1/account/topups?limit=1')
    return (body.topups as { topup_id: string; state: string; ops: number }[] | undefined)?.[0]
  }
  const before = (await latest())?.topup_id
  for (;;) {
    await pause(2 * POLL_MS)
    if (document.hidden) continue
    const newest = await latest().catch(() => undefined)
    if (newest === undefined || newest.topup_id === before || newest.state !== 'credited') continue
    const { body } = await ask('GET', '/v1/account/balance')
    const balance = find('balance')
    if (balance) balance.textContent = number(body.operations_remaining)
    tell(`Credited ${number(newest.ops)} operations. You have ${number(body.operations_remaining)}.`, 'done')
    return
  }
}

/** One button per wallet that announces itself (EIP-6963); the old `window.ethereum` where none does. */
function offerWallets(onChoice: (wallet: Wallet) => void): void {
  const box = find('wallet')
  const list = find('wallets')
  const first = find<HTMLButtonElement>('pay-button')
  if (!box || !list || !first) return
  const wallets: Wallet[] = []
  const offer = (wallet: Wallet): void => {
    if (wallets.some(({ provider }) => provider === wallet.provider)) return
    wallets.push(wallet)
    box.hidden = false
    const button = wallets.length === 1 ? first : (first.cloneNode() as HTMLButtonElement)
    button.textContent = wallet.name === '' ? 'Connect wallet and pay' : `Connect ${wallet.name} and pay`
    button.addEventListener('click', () => onChoice(wallet))
    if (button !== first) {
      button.removeAttribute('id')
      list.append(button)
    }
  }
  window.addEventListener('eip6963:announceProvider', (event) => {
    const { detail } = event as CustomEvent<{ info: { name: string }; provider: Provider }>
    offer({ name: String(detail.info.name).slice(0, 40), provider: detail.provider })
  })
  window.dispatchEvent(new Event('eip6963:requestProvider'))
  const injected = (window as Window & { ethereum?: Provider }).ethereum
  if (wallets.length === 0 && injected) offer({ name: '', provider: injected })
}

const codeOf = (error: unknown): unknown =>
  typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
const textOf = (error: unknown): string =>
  typeof error === 'object' && error !== null && 'message' in error ? String(error.message).slice(0, 200) : String(error)
