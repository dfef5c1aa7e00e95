type ArrowProps = { readonly y: number; readonly from: number; readonly to: number; readonly class?: string }

const GVNR = 62
const AGENT = 230
const MODEL = 398
const HEAD = 9

function Arrow({ y, from, to, class: className = '' }: ArrowProps) {
  const back = to > from ? -HEAD : HEAD
  return (
    <>
      <path class={`arrow ${className}`} d={`M${from} ${y}H${to + back}`} />
      <path class={`head ${className}`} d={`M${to} ${y}l${back} -5v10z`} />
    </>
  )
}

function Party({ x, name, own = false }: { readonly x: number; readonly name: string; readonly own?: boolean }) {
  return (
    <>
      <path class="life" d={`M${x} 44V410`} />
      <rect class={own ? 'box own' : 'box'} x={x - 58} y="4" width="116" height="40" rx="8" />
      <text class={own ? 'name own' : 'name'} x={x} y="29">
        {name}
      </text>
    </>
  )
}

/** The loop as a picture: clear, call, reconcile, between Gvnr, the agent and the model. */
export function Loop() {
  const left = (GVNR + AGENT) / 2
  const right = (AGENT + MODEL) / 2
  return (
    <svg class="loop" viewBox="0 0 460 420" role="img" aria-labelledby="loop-title">
      <title id="loop-title">
        The agent asks Gvnr to clear an estimate. Approved, it gets a clearance id and calls the model; denied, it does not call.
        Then it reconciles the clearance with the tokens used.
      </title>
      <Party x={GVNR} name="Gvnr" own />
      <Party x={AGENT} name="Agent" />
      <Party x={MODEL} name="Model" />

      <text class="middle" x={left} y="82">
        1. clear
      </text>
      <Arrow y={92} from={AGENT} to={GVNR} />
      <text class="note" x={AGENT + 14} y="97">
        sonnet, 2,000 tokens
      </text>

      <text class="middle yes" x={left} y="140">
        approved
      </text>
      <Arrow y={150} from={GVNR} to={AGENT} class="yes" />
      <text class="note" x={AGENT + 14} y="155">
        clearance_id, $4.97 left
      </text>
      <text class="no" x={AGENT + 14} y="178">
        or denied: stop here
      </text>

      <text class="middle" x={right} y="220">
        2. call
      </text>
      <Arrow y={230} from={AGENT} to={MODEL} />
      <Arrow y={272} from={MODEL} to={AGENT} />
      <text class="middle note" x={right} y="264">
        answer, usage
      </text>

      <text class="middle" x={left} y="320">
        3. reconcile
      </text>
      <Arrow y={330} from={AGENT} to={GVNR} />
      <text class="note" x={AGENT + 14} y="335">
        1,140 tokens used
      </text>
      <Arrow y={378} from={GVNR} to={AGENT} class="yes" />
      <text class="middle note" x={left} y="370">
        settled
      </text>
      <text class="note" x={AGENT + 14} y="383">
        drift −$0.012, $4.98 left
      </text>
    </svg>
  )
}
