import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startSwitch } from '../../test/support/tcp-switch.ts'

/** A cable between the servers and the database: real packets where the machine allows it, else a relay that holds bytes back. */
export type Link = {
  readonly url: string
  /** What stands in for the network, for the report. */
  readonly how: string
  /** Takes packets away, or as far as that cannot be done, stops the flow for moments. */
  lose(): Promise<void>
  /** Nothing passes any more. */
  cut(): void
  restore(): void
  remove(): Promise<void>
}

const LINK_PORT = 5432
const FLAPS = { down_ms: 60, up_ms: 140 } as const

/** @param sockets where PostgreSQL has its Unix socket */
export async function startLink(sockets: string, databasePort: number): Promise<Link> {
  return process.getuid?.() === 0 && canMakeNetworks() ? startNetwork(sockets, databasePort) : startRelay(databasePort)
}

const run = (command: string): void => {
  const [program = '', ...parameters] = command.split(' ')
  execFileSync(program, parameters, { stdio: 'pipe' })
}
const works = (command: string): boolean => {
  try {
    run(command)
    return true
  } catch {
    return false
  }
}

function canMakeNetworks(): boolean {
  const name = `gvnr-try-${process.pid}`
  if (!works(`ip netns add ${name}`)) return false
  const isPossible = works(`ip link add gvt0 type veth peer name gvt1 netns ${name}`)
  if (isPossible) works('ip link del gvt0')
  works(`ip netns del ${name}`)
  return isPossible
}

/**
 * A network namespace with a relay in it, which goes on to PostgreSQL over its Unix socket: so the packets between server and relay, and
 * they alone, cross the pair of interfaces.
 */
async function startNetwork(sockets: string, databasePort: number): Promise<Link> {
  const name = `gvnr-soak-${process.pid}`
  const [outer, inner] = [`gvo${process.pid}`, `gvi${process.pid}`]
  const subnet = `10.213.${process.pid % 250}`
  const socket = join(sockets, `.s.PGSQL.${databasePort}`)
  if (!existsSync(socket)) throw new Error(`PostgreSQL has no socket at ${socket}`)
  const removeNetwork = (): void => {
    works(`ip link del ${outer}`)
    works(`ip netns del ${name}`)
  }
  process.once('exit', removeNetwork)
  run(`ip netns add ${name}`)
  run(`ip link add ${outer} type veth peer name ${inner} netns ${name}`)
  run(`ip addr add ${subnet}.1/30 dev ${outer}`)
  run(`ip link set ${outer} up`)
  run(`ip -n ${name} addr add ${subnet}.2/30 dev ${inner}`)
  run(`ip -n ${name} link set ${inner} up`)
  const relay = spawn(
    'ip',
    [
      ...['netns', 'exec', name, process.execPath, '--import', 'tsx', join(import.meta.dirname, 'relay-process.ts')],
      ...[`${subnet}.2`, String(LINK_PORT), socket],
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  await once(relay.stdout, 'data')
  // The end of the other side: this one sees a cable without carrier and keeps its routes, so packets are lost and not refused.
  const cut = (): void => run(`ip -n ${name} link set ${inner} down`)
  const restore = (): void => run(`ip -n ${name} link set ${inner} up`)
  const hasNetem = works(`tc qdisc add dev ${outer} root netem loss 0%`)
  const loss = hasNetem
    ? 'netem: 5 % of the packets lost, 20 ms later'
    : `no netem in this kernel: the link goes down for ${FLAPS.down_ms} of ${FLAPS.down_ms + FLAPS.up_ms} ms, which loses what is on it`
  return {
    url: `postgres://postgres@${subnet}.2:${LINK_PORT}/postgres`,
    how: `network namespace with a veth pair; ${loss}`,
    async lose() {
      if (hasNetem) {
        run(`tc qdisc change dev ${outer} root netem loss 5% delay 20ms`)
        await sleep(10_000)
        run(`tc qdisc change dev ${outer} root netem loss 0%`)
        return
      }
      for (const until = Date.now() + 10_000; Date.now() < until; await sleep(FLAPS.up_ms)) {
        cut()
        await sleep(FLAPS.down_ms)
        restore()
      }
    },
    cut,
    restore,
    async remove() {
      relay.kill('SIGKILL')
      removeNetwork()
      process.off('exit', removeNetwork)
    },
  }
}

async function startRelay(databasePort: number): Promise<Link> {
  const relay = await startSwitch(databasePort)
  return {
    url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
    how: 'no network namespaces here: a TCP relay that holds everything back, for moments in the place of lost packets',
    async lose() {
      for (const until = Date.now() + 10_000; Date.now() < until; await sleep(FLAPS.up_ms)) {
        relay.partition()
        // What a lost packet costs: TCP sends it again after 200 ms.
        await sleep(200)
        relay.heal()
      }
    },
    cut: () => relay.partition(),
    restore: () => relay.heal(),
    remove: () => relay.close(),
  }
}
