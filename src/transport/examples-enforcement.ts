import type { Example } from './examples.ts'

const NOON = 1_763_812_800_000
const MIDNIGHT = 1_763_856_000_000
const BOOKING = '019ab5c4-c0de-7f10-9a3b-7d2e5f8c1b46'
const AGENT = {
  agent_id: 'crawler',
  first_seen_at: NOON - 86_400_000,
  last_activity_at: NOON,
  suspended: false,
  open_holds: 2,
  open_usd: 0.096,
  spent_usd: { hourly: 0.12, daily: 0.12, weekly: 3.4, monthly: 14.02, session: 14.02 },
  limits: [{ window: 'daily', limit_usd: 5, spent_usd: 0.12, remaining_usd: 4.88, reset_at: MIDNIGHT }],
}

/** Bookings, agents and their usage. */
export const enforcementExamples: Readonly<Record<string, Example>> = {
  book_spend: {
    request: {
      agent_id: 'crawler',
      resource_type: 'api_call',
      action: 'web_search',
      cost: 0.008,
      metadata: { query: 'gvnr' },
    },
    response: {
      status: 'success',
      cost: 0.008,
      agent_id: 'crawler',
      booking_id: BOOKING,
      budgets: [{ period: 'daily', remaining: 4.872 }],
      operations_remaining: 23,
    },
  },
  list_agents: { response: { agents: [AGENT], next_after: null } },
  get_agent: { request: { agent_id: 'crawler' }, response: AGENT },
  get_prediction: {
    request: { agent_id: 'crawler', period: 'daily', lookback_hours: 6 },
    response: {
      status: 'ok',
      message: 'At $0.90 an hour the daily budget lasts 5 hours.',
      remaining_budget: 4.88,
      rate_usd_per_hour: 0.9,
      prediction_timestamp: NOON + 19_520_000,
      remaining_time_seconds: 19_520,
      period: 'daily',
      limit_agent_id: 'crawler',
      reset_at: MIDNIGHT,
      short_usd_per_hour: 1.1,
      long_usd_per_hour: 0.82,
      trend: 'steady',
      confidence: 'medium',
    },
  },
  get_usage: {
    request: { agent_id: 'crawler', step: 'hour' },
    response: {
      agent_id: 'crawler',
      step: 'hour',
      from: NOON - 3_600_000,
      to: NOON + 3_600_000,
      spent_usd: 0.12,
      series: [
        { at: NOON - 3_600_000, spent_usd: 0.12, calls: 4 },
        { at: NOON, spent_usd: 0, calls: 0 },
      ],
      models: [{ model: 'claude-sonnet-4-6', spent_usd: 0.12, calls: 4, input_tokens: 21_400, output_tokens: 3_700 }],
    },
  },
}
