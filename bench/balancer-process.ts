import { type BalancerOptions, startBalancer } from '../test/support/balancer.ts'

/** Balancers in a process of their own, one for each options in the parameter; tells their ports in the same order. */
const wanted = JSON.parse(process.argv[2] ?? '[]') as BalancerOptions[]
const balancers = await Promise.all(wanted.map(startBalancer))

process.on('disconnect', () => process.exit(0))
process.send?.({ port: balancers[0]?.port ?? 0, ports: balancers.map(({ port }) => port) })
