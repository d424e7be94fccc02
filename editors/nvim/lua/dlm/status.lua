-- What the server and the plugin are doing, in a few words for a statusline and in full.

local client_of = require('dlm.client')

local M = {}

---@class dlm.ServerStatus
---@field state 'loading'|'ready'|'busy'|'off'|'error'
---@field message string
---@field reason string?
---@field mode string?
---@field model string?
---@field device string?
---@field lastMs number?
---@field tokensPerForward number?

---@type table<string, any>
local server = {}
local silence_reason
---@type string?
local progress
local is_announced = false

-- Tells whoever draws the status, once for several changes at a time.
local function announce()
  if is_announced then
    return
  end
  is_announced = true
  vim.schedule(function()
    is_announced = false
    vim.api.nvim_exec_autocmds('User', { pattern = 'DlmStatus', modeline = false })
    vim.cmd.redrawstatus()
  end)
end

M.changed = announce

local TYPES = {
  state = 'string',
  message = 'string',
  reason = 'string',
  mode = 'string',
  model = 'string',
  device = 'string',
  lastMs = 'number',
  tokensPerForward = 'number',
}

---@param params table the parameters of `dlm/status`
function M.told(params)
  server = {}
  for name, wanted in pairs(TYPES) do
    if type(params[name]) == wanted then
      server[name] = params[name]
    end
  end
  announce()
end

---@param reason string? why nothing is shown; nil if there is no reason
function M.silent(reason)
  if silence_reason ~= reason then
    silence_reason = reason
    announce()
  end
end

---@param message string
function M.failed(message)
  server = { state = 'error', message = message }
  announce()
end

---@param text string? the progress of a download; nil at its end
function M.progress(text)
  progress = text
  announce()
end

---Everything that is known.
---@return table
function M.get()
  local buffer = vim.api.nvim_get_current_buf()
  local suggestion = package.loaded['dlm.suggestion']
  local silence = require('dlm.silence')
  local client = client_of.of(buffer)
  return {
    attached = client ~= nil,
    server = server,
    silence = silence.reason(buffer, false),
    last = silence_reason,
    reason = silence.reason(buffer, false) or server.reason,
    visible = suggestion ~= nil and suggestion.is_visible(),
    latency = suggestion and suggestion.latency() or nil,
    progress = progress,
  }
end

local function figures(status)
  local parts = {}
  local latency = status.latency or status.server.lastMs
  if latency then
    parts[#parts + 1] = ('%d ms'):format(math.floor(latency + 0.5))
  end
  if status.server.tokensPerForward then
    parts[#parts + 1] = ('%.1f tok/fwd'):format(status.server.tokensPerForward)
  end
  return table.concat(parts, ' · ')
end

---A short text for a statusline: the state, why nothing is shown, the latency and the tokens per
---forward. Empty where the server is not attached.
---@return string
function M.component()
  local status = M.get()
  if status.progress then
    return 'dlm ↓ ' .. status.progress
  end
  local state = status.server.state
  if not status.attached then
    return state == 'error' and 'dlm ✗' or ''
  end
  if state == 'error' then
    return 'dlm ✗ ' .. (status.server.message or '')
  elseif status.silence then
    return 'dlm ○ ' .. status.silence
  elseif state == 'loading' then
    return 'dlm … ' .. (status.server.message or '')
  end
  local sign = state == 'busy' and '◐' or '●'
  local text = ('dlm %s %s'):format(sign, figures(status)):gsub('%s+$', '')
  if not status.visible and status.server.reason and state ~= 'busy' then
    text = text .. ' · ' .. status.server.reason
  end
  return text
end

return M
