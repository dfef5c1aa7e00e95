// Preloaded into a server (NODE_OPTIONS=--import=…): its wall clock is off by the milliseconds that the file CLOCK_SHIFT_FILE holds at
// the moment, as when somebody sets the machine's clock. The monotonic clock goes on, as it does then.
import { readFileSync } from 'node:fs'

const TrueDate = Date
let shift_ms = 0
const read = () => {
  shift_ms = Number(readFileSync(process.env.CLOCK_SHIFT_FILE, 'utf8'))
}
read()
setInterval(read, 20).unref()
const now = () => TrueDate.now() + shift_ms

globalThis.Date = new Proxy(TrueDate, {
  construct: (target, given, made) => Reflect.construct(target, given.length === 0 ? [now()] : given, made),
  apply: () => new TrueDate(now()).toString(),
  get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
})
