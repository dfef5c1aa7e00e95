import { raw } from 'hono/html'
import { renderSVG } from 'uqr'
import { Layout, type Site } from './layout.tsx'

/** What the page shows; everything in it is text for people or for the script, never markup. */
export type PayView = {
  readonly amountUsd: string
  readonly amountUnits: string
  readonly ops: number
  readonly pack: string | null
  readonly networkName: string
  readonly chainId: number
  readonly explorer: string
  readonly usdc: string
  /** The key as it came in the query, and what it opens; null before there is one. */
  readonly account: {
    readonly key: string
    readonly operations: number
    readonly address: string
    readonly isOwn: boolean
  } | null
  /** A key that was made just now: shown this once. */
  readonly newKey: string | null
  readonly notice: { readonly kind: 'error' | 'done' | 'sign'; readonly text: string; readonly message?: string } | null
  /** What was typed into the form of those who paid elsewhere. */
  readonly claim: { readonly txHash: string; readonly signature: string }
  readonly scriptPath: string
}

const PRESETS = [
  { text: '$5', href: '/pay', usd: '5' },
  { text: '$10', href: '/pay', usd: '10' },
  { text: '$19', href: '/pay/starter', usd: '19' },
  { text: '$39', href: '/pay/growth', usd: '39' },
  { text: '$79', href: '/pay/studio', usd: '79' },
] as const

const number = (value: number): string => value.toLocaleString('en-US')

export function Pay({ site, view }: { readonly site: Site; readonly view: PayView }) {
  return (
    <Layout site={site} title="Buy operations: Gvnr" description="Buy Gvnr governance operations with USDC." class="pay">
      <h1>Buy operations</h1>
      <p class="lead">1,000 operations cost $1, paid in USDC on {view.networkName}.</p>
      {view.notice && <Notice notice={view.notice} />}
      <Amount view={view} />
      {view.newKey !== null && <NewKey view={view} apiKey={view.newKey} />}
      {view.newKey === null && view.account === null && <FirstAnAccount view={view} />}
      {view.account !== null && <Payment view={view} account={view.account} />}
      <script src={view.scriptPath} defer />
    </Layout>
  )
}

/** Where a server takes no payments. */
export const PayClosed = ({ site }: { readonly site: Site }) => (
  <Layout site={site} title="No payments: Gvnr" description="This server takes no payments." class="lost">
    <h1>No payments here</h1>
    <p class="lead">This server takes no payments. Ask its operator for operations.</p>
  </Layout>
)

/** For a key or a pack that cannot be. */
export const PayRefused = ({ site, title, text }: { readonly site: Site; readonly title: string; readonly text: string }) => (
  <Layout site={site} title={`${title}: Gvnr`} description={text} class="lost">
    <h1>{title}</h1>
    <p class="lead">{text}</p>
    <div class="buttons">
      <a class="button main" href="/pay">
        Start over
      </a>
    </div>
  </Layout>
)

function Notice({ notice }: { readonly notice: NonNullable<PayView['notice']> }) {
  return (
    <section class={`notice ${notice.kind}`} role={notice.kind === 'error' ? 'alert' : 'status'}>
      <p>{notice.text}</p>
      {notice.message !== undefined && <pre>{notice.message}</pre>}
    </section>
  )
}

function Amount({ view }: { readonly view: PayView }) {
  const key = view.account?.key
  const withKey = (href: string, usd: string) => {
    const query = new URLSearchParams({ ...(href === '/pay' && { usd }), ...(key !== undefined && { api_key: key }) })
    return query.size === 0 ? href : `${href}?${query}`
  }
  return (
    <form class="amount" method="get" action="/pay">
      <label for="usd">Amount in US dollars</label>
      <div class="field">
        <span aria-hidden="true">$</span>
        <input
          id="usd"
          name="usd"
          type="number"
          inputmode="decimal"
          min="1"
          max="100"
          step="0.01"
          required
          value={view.amountUsd}
          autocomplete="off"
        />
        <button class="button" type="submit">
          Set amount
        </button>
      </div>
      {key !== undefined && <input type="hidden" name="api_key" value={key} />}
      <p class="presets">
        {PRESETS.map(({ text, href, usd }) => (
          <a href={withKey(href, usd)} {...(usd === view.amountUsd && { 'aria-current': 'true' })}>
            {text}
          </a>
        ))}
      </p>
      <output class="preview" for="usd" id="preview">
        {number(view.ops)} operations
      </output>
    </form>
  )
}

function FirstAnAccount({ view }: { readonly view: PayView }) {
  return (
    <section>
      <h2>Which account?</h2>
      <div class="columns">
        <form method="get" action={view.pack === null ? '/pay' : `/pay/${view.pack}`}>
          <label for="api_key">Your key</label>
          <input id="api_key" name="api_key" type="text" placeholder="bg_…" required autocomplete="off" spellcheck={false} />
          {view.pack === null && <input type="hidden" name="usd" value={view.amountUsd} />}
          <button class="button main" type="submit">
            Continue
          </button>
        </form>
        <form method="post" action="/pay/account">
          <p>
            No account yet? Make one now. Its key is shown <strong>once</strong>, on the next page: save it there, nobody can show
            it again.
          </p>
          <input type="hidden" name="usd" value={view.amountUsd} />
          <button class="button" type="submit">
            Make an account
          </button>
        </form>
      </div>
    </section>
  )
}

function NewKey({ view, apiKey }: { readonly view: PayView; readonly apiKey: string }) {
  return (
    <section>
      <h2>Save this key now</h2>
      <p>
        It is the only way into the account and is shown <strong>this once</strong>.
      </p>
      <Copyable id="new-key" text={apiKey} label="Copy the key" />
      <form method="get" action="/pay">
        <input type="hidden" name="usd" value={view.amountUsd} />
        <input type="hidden" name="api_key" value={apiKey} />
        <button class="button main" type="submit">
          I have saved it: continue
        </button>
      </form>
    </section>
  )
}

function Payment({ view, account }: { readonly view: PayView; readonly account: NonNullable<PayView['account']> }) {
  const link = `ethereum:${view.usdc}@${view.chainId}/transfer?address=${account.address}&uint256=${view.amountUnits}`
  return (
    <section
      id="payment"
      data-units={view.amountUnits}
      data-chain-id={String(view.chainId)}
      data-network={view.networkName}
      data-explorer={view.explorer}
      data-usdc={view.usdc}
      data-address={account.address}
      data-own={String(account.isOwn)}
      data-key={account.key}
    >
      <p>
        This account has <strong id="balance">{number(account.operations)}</strong> operations.
      </p>
      <div id="wallet" hidden>
        <h2>Pay with a wallet</h2>
        <p id="wallets" class="buttons">
          <button class="button main" type="button" id="pay-button">
            Connect wallet and pay
          </button>
        </p>
      </div>
      <div id="status" role="status" aria-live="polite" hidden />
      <h2>Pay by hand</h2>
      <div class="columns">
        <div>
          <p>
            Send exactly <strong>{view.amountUsd} USDC</strong> on <strong>{view.networkName}</strong> to this address. Another
            token or network is lost.
          </p>
          <Copyable id="address" text={account.address} label="Copy the address" />
          <p class="soft">
            {account.isOwn
              ? 'The address is yours alone: what arrives is credited by itself after a few blocks, from a wallet or an exchange.'
              : 'Many accounts share this address: afterwards, give the transaction hash below and sign with the wallet that paid. An exchange cannot sign.'}
          </p>
          <p class="soft">
            USDC contract <code>{view.usdc}</code>
          </p>
        </div>
        <figure class="qr">
          {raw(renderSVG(link, { border: 3, whiteColor: '#fff', blackColor: '#000' }))}
          <figcaption>
            <a href={link}>Open in a wallet</a>
          </figcaption>
        </figure>
      </div>
      <h2>Paid already?</h2>
      <form method="post" action="/pay/claim" id="claim">
        <input type="hidden" name="api_key" value={account.key} />
        <input type="hidden" name="usd" value={view.amountUsd} />
        <label for="tx_hash">Transaction hash</label>
        <input
          id="tx_hash"
          name="tx_hash"
          type="text"
          placeholder="0x…"
          required
          autocomplete="off"
          spellcheck={false}
          value={view.claim.txHash}
        />
        {!account.isOwn && (
          <>
            <label for="signature">
              Signature of the paying wallet <span class="soft">(after the first try, which shows what to sign)</span>
            </label>
            <input
              id="signature"
              name="signature"
              type="text"
              placeholder="0x…"
              autocomplete="off"
              spellcheck={false}
              value={view.claim.signature}
            />
          </>
        )}
        <button class="button" type="submit">
          Credit this payment
        </button>
      </form>
    </section>
  )
}

const Copyable = ({ id, text, label }: { readonly id: string; readonly text: string; readonly label: string }) => (
  <p class="copyable">
    <code id={id}>{text}</code>
    <button class="button copy" type="button" data-copy={id} hidden>
      {label}
    </button>
  </p>
)
