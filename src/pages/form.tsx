import { randomUUID } from 'node:crypto'
import type { Child } from 'hono/jsx'
import type { Viewer } from './dashboard-view.ts'

type Props = {
  readonly viewer: Viewer
  readonly action: string
  readonly class?: string
  readonly children?: Child
  /** False where doing it twice is the same as once: the form then stays the same each time it is drawn. */
  readonly named?: boolean
  /** Fields that are not shown. */
  readonly hidden?: Readonly<Record<string, string | null>>
}

/**
 * A form of the dashboard. It carries what no other site knows, so that nobody else can send it, and a name of its own, so that sending it twice
 * does it once.
 */
export function Form({ viewer, action, class: className, hidden = {}, named = true, children }: Props) {
  return (
    <form method="post" action={`/dashboard/${action}`} {...(className !== undefined && { class: className })}>
      <input type="hidden" name="form_token" value={viewer.formToken} />
      {named ? <input type="hidden" name="form_id" value={randomUUID()} /> : null}
      {Object.entries(hidden).map(([name, value]) => (value === null ? null : <input type="hidden" name={name} value={value} />))}
      {children}
    </form>
  )
}

type FieldProps = {
  readonly label: string
  readonly name: string
  readonly type?: string
  readonly value?: string
  readonly placeholder?: string
  readonly required?: boolean
  readonly class?: string
  readonly step?: string
  readonly min?: string
  readonly maxlength?: number
}

export function Field({ label, class: className, type = 'text', ...input }: FieldProps) {
  return (
    <label {...(className !== undefined && { class: className })}>
      <span>{label}</span>
      <input type={type} autocomplete="off" {...input} />
    </label>
  )
}

/** An agent's name as a form can carry it: browsers change line breaks in fields. */
export const encodeAgent = (agentId: string): string => encodeURIComponent(agentId)
