-- The suggestion at the cursor: when it is asked for, what of it is shown, and when it goes.
--
-- There is at most one, in the window where the user types. Its text is kept relative to the place
-- that it was asked for; what was typed there since is taken off whenever it is drawn, so that
-- typing on it needs neither a request nor a moment without it. `dlm.stale` alone decides whether
-- it stands.

local client_of = require('dlm.client')
local config = require('dlm.config')
local delay = require('dlm.delay')
local ghost = require('dlm.ghost')
local items_of = require('dlm.items')
local pace = require('dlm.pace')
local silence = require('dlm.silence')
local stale = require('dlm.stale')
local view_of = require('dlm.view').of

local M = {}

M.METHOD = 'textDocument/inlineCompletion'
local INVOKED, AUTOMATIC = 1, 2

---@class dlm.Suggestion: dlm.Origin
---@field request integer? the request in flight
---@field items dlm.Item[] the answers; one without an id while there are only drafts
---@field index integer
---@field is_final boolean whether the text can no longer change
---@field is_invoked boolean
---@field is_growing boolean whether a draft may take more lines than when it was first shown
---@field is_waiting boolean whether what was typed contradicts a draft that may still change
---@field height integer? the number of lines that the draft took when it was first shown
---@field new_rows integer the lines that were added below the suggestion's first since
---@field has_scrolled boolean? whether the window was scrolled to show all of it
---@field began number when it was asked for, in milliseconds

---@type dlm.Suggestion?
local current
local rhythm = delay.new()
local asking = assert(vim.uv.new_timer())
local drawing ---@type dlm.Pace
local number = 0
-- Counts what the timer was set for: a call of it may still come after it was stopped.
local wish = 0
local drawn
local last_key, last_bytes
local tracked = {}

---Why the last suggestion went or was not shown, for the status and for tests.
M.reason = nil

local function milliseconds()
  return vim.uv.hrtime() / 1e6
end

local function ask_no_more()
  wish = wish + 1
  asking:stop()
end

local function say(reason)
  M.reason = reason
  require('dlm.status').silent(reason)
end

local function cancel(suggestion)
  local client = vim.lsp.get_client_by_id(suggestion.client)
  if suggestion.request and client then
    client:cancel_request(suggestion.request)
  end
  suggestion.request = nil
end

---Removes the suggestion and what is asked for.
---@param reason string?
function M.clear(reason)
  ask_no_more()
  drawing:stop()
  local gone = current
  current = nil
  if gone then
    cancel(gone)
    if drawn then
      ghost.clear(gone.buffer)
      drawn = nil
      require('dlm.status').changed()
    end
    say(reason)
  end
end

local function draw(view)
  local was_drawn = drawn ~= nil
  local suggestion = current
  if view and suggestion and config.get().scroll then
    -- Once: what has scrolled already should not jump again.
    local may_scroll = not suggestion.has_scrolled or suggestion.is_growing
    suggestion.has_scrolled = may_scroll and ghost.make_room(view) or suggestion.has_scrolled
  end
  if view and not vim.deep_equal(view, drawn) then
    ghost.draw(view)
    drawing:drawn()
    drawn = view
  elseif not view and drawn then
    ghost.clear(drawn.buffer)
    drawn = nil
  end
  if was_drawn ~= (drawn ~= nil) then
    require('dlm.status').changed()
  end
end

-- Draws the suggestion as it stands; returns false if it had to go.
local function refresh()
  local suggestion = current
  if not suggestion then
    return false
  end
  local now = stale.now(suggestion)
  local reason, typed, passed = stale.why(suggestion, now)
  local view
  if not reason then
    view, reason = view_of(suggestion, now, typed, passed)
  end
  if reason then
    M.clear(reason)
    return false
  end
  suggestion.is_waiting = view == nil
  draw(view)
  return true
end

drawing = pace.new(refresh)

-- Notices changes of other lines than the suggestion's, which nothing else would tell.
local function track(buffer)
  if tracked[buffer] then
    return
  end
  tracked[buffer] = true
  vim.api.nvim_buf_attach(buffer, false, {
    on_bytes = function(_, _, _, row, _, _, old_rows, _, _, new_rows)
      local suggestion = current
      if not suggestion or suggestion.buffer ~= buffer then
        tracked[buffer] = nil
        return true
      end
      local last = suggestion.row + suggestion.new_rows
      if row < suggestion.row or row + old_rows > last then
        suggestion.is_broken = true
      end
      suggestion.new_rows = suggestion.new_rows + new_rows - old_rows
    end,
    on_reload = function()
      if current and current.buffer == buffer then
        current.is_broken = true
      end
    end,
    on_detach = function()
      tracked[buffer] = nil
    end,
  })
end

---Returns a suggestion for the cursor's place that is yet to be asked for.
---@param client vim.lsp.Client
---@param window integer
---@return dlm.Suggestion
function M.origin_at(client, window)
  local buffer = vim.api.nvim_win_get_buf(window)
  local cursor = vim.api.nvim_win_get_cursor(window)
  local line = vim.api.nvim_buf_get_lines(buffer, cursor[1] - 1, cursor[1], false)[1] or ''
  number = number + 1
  return {
    buffer = buffer,
    window = window,
    client = client.id,
    uri = vim.uri_from_bufnr(buffer),
    token = ('dlm-%d-%d'):format(vim.fn.getpid(), number),
    row = cursor[1] - 1,
    column = cursor[2],
    before = line:sub(1, cursor[2]),
    after = line:sub(cursor[2] + 1),
    line_count = vim.api.nvim_buf_line_count(buffer),
    new_rows = 0,
    is_broken = false,
    sequence = 0,
    items = {},
    index = 1,
    is_final = false,
    is_invoked = false,
    is_growing = false,
    is_waiting = false,
    began = milliseconds(),
  }
end

---Makes a suggestion the one at the cursor.
---@param suggestion dlm.Suggestion
function M.begin(suggestion)
  ask_no_more()
  drawing:stop()
  -- The server gives the work for the earlier request to the new one where that is of use, so that
  -- it is not cancelled.
  if drawn and not suggestion.is_final then
    draw(nil)
  end
  current = suggestion
  track(suggestion.buffer)
  if suggestion.is_final or suggestion.is_growing then
    refresh()
  end
end

---Takes the answers for a suggestion, if it is still the one at the cursor.
---@param suggestion dlm.Suggestion
---@param items dlm.Item[]
---@param reason string? why there are none
function M.settle(suggestion, items, reason)
  if current ~= suggestion then
    return -- A newer request has taken its place.
  end
  suggestion.request = nil
  if #items == 0 then
    M.clear(reason or 'the answer does not fit the text')
    return
  end
  suggestion.items, suggestion.is_final = items, true
  drawing:soon()
end

local function on_answer(suggestion, error, result)
  if current ~= suggestion then
    return
  end
  delay.answered(rhythm, milliseconds() - suggestion.began)
  local client = vim.lsp.get_client_by_id(suggestion.client)
  if error or not client then
    M.settle(suggestion, {}, error and tostring(error.message) or 'the language server has gone')
  elseif result == nil or result == vim.NIL then
    -- The text went on before the answer came; what is there now is asked about.
    M.settle(suggestion, {}, 'the answer came late')
    M.ask_soon()
  else
    local is_empty = type(result) == 'table' and next(result) == nil
    local items = items_of.read(result, suggestion, client.offset_encoding)
    M.settle(suggestion, items, is_empty and 'there is nothing to suggest' or nil)
  end
end

-- Sends the request for a suggestion, which takes the place of the one before.
local function send(suggestion, client)
  local params = vim.lsp.util.make_position_params(suggestion.window, client.offset_encoding)
  params.context = { triggerKind = suggestion.is_invoked and INVOKED or AUTOMATIC }
  if config.get().draft ~= 'final' then
    params.workDoneToken = suggestion.token
  end
  local _, request = client:request(M.METHOD, params, function(error, result)
    on_answer(suggestion, error, result)
  end, suggestion.buffer)
  suggestion.request = request
  suggestion.version = vim.lsp.util.buf_versions[suggestion.buffer]
end

---Asks for a suggestion at the cursor now.
---@param is_invoked boolean whether the user wants one in any case
function M.ask(is_invoked)
  ask_no_more()
  local window = vim.api.nvim_get_current_win()
  local buffer = vim.api.nvim_win_get_buf(window)
  local client = client_of.of(buffer)
  if not client or vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i' then
    return
  end
  local reason = silence.reason(buffer, is_invoked)
  if reason then
    say(reason)
    return
  end
  local suggestion = M.origin_at(client, window)
  suggestion.is_invoked = is_invoked
  M.begin(suggestion)
  send(suggestion, client)
end

---Asks for a suggestion once the user rests.
function M.ask_soon()
  local buffer = vim.api.nvim_get_current_buf()
  local reason = silence.reason(buffer, false)
  if reason or not client_of.of(buffer) then
    ask_no_more()
    say(reason)
    return
  end
  ask_no_more()
  local mine = wish
  local milliseconds_to_wait = math.floor(delay.wait(rhythm, config.get().delay))
  asking:start(milliseconds_to_wait, 0, function()
    vim.schedule(function()
      if wish == mine then
        M.ask(false)
      end
    end)
  end)
end

-- Whether the buffer has become shorter since the last call.
local function was_deleted(buffer)
  local bytes = vim.api.nvim_buf_get_offset(buffer, vim.api.nvim_buf_line_count(buffer))
  local before = last_bytes
  last_bytes = { buffer = buffer, count = bytes }
  return before ~= nil and before.buffer == buffer and bytes < before.count
end

-- Whether the cursor stands where a suggestion was asked for that is yet to come.
local function is_at_its_place(suggestion)
  local cursor = vim.api.nvim_win_get_cursor(0)
  local is_there = cursor[1] - 1 == suggestion.row and cursor[2] == suggestion.column
  return is_there and suggestion.request ~= nil
end

---Takes notice of what the user has typed, or where the cursor has gone.
function M.moved()
  local buffer = vim.api.nvim_get_current_buf()
  local cursor = vim.api.nvim_win_get_cursor(0)
  local tick = vim.api.nvim_buf_get_changedtick(buffer)
  local key = ('%d %d %d %d'):format(buffer, tick, cursor[1], cursor[2])
  if key == last_key then
    return -- Two events tell of one key.
  end
  last_key = key
  delay.key(rhythm, milliseconds())
  local is_deletion = was_deleted(buffer)
  if vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i' then
    M.clear('nothing is being inserted')
    return
  end
  local reason = current and silence.reason(buffer, current.is_invoked or current.is_growing)
  if reason then
    M.clear(reason)
    return
  end
  local stands = refresh()
  if stands and (drawn or current.is_growing or is_at_its_place(current)) then
    ask_no_more() -- It is shown, or has been asked for.
    return
  end
  if is_deletion and config.get().silence.deletion then
    M.clear('text was deleted')
    say('Text was deleted.')
    return
  end
  M.ask_soon()
end

---Begins with a new text to type.
function M.entered()
  last_key = nil
  was_deleted(vim.api.nvim_get_current_buf())
  M.ask_soon() -- The mode is not insert mode yet.
end

---Shows a draft of the server, if it is one for what stands at the cursor.
---@param params table
function M.draft(params)
  local suggestion = current
  if not suggestion or suggestion.is_final then
    return
  end
  local reason, typed = stale.why(suggestion, stale.now(suggestion), params)
  local client = vim.lsp.get_client_by_id(suggestion.client)
  if reason or not client then
    M.dropped = reason
    return
  end
  local item = items_of.of_draft(params, suggestion, client.offset_encoding)
  if not item then
    M.dropped = 'it cannot be read'
    return
  end
  suggestion.sequence = params.sequence
  suggestion.items = { item }
  suggestion.is_final = params.final == true
  if stale.rest(item.text, typed or '') then
    ask_no_more() -- What was asked before leads here too.
  end
  drawing:soon()
end

---Drops the suggestions of a server that has ended, or no longer follows a buffer.
---@param client integer
---@param buffer integer? every buffer by default
function M.lost(client, buffer)
  if current and current.client == client and (buffer or current.buffer) == current.buffer then
    current.request = buffer and current.request -- One that has ended is not told to stop.
    M.clear('the language server has gone')
  end
end

---Whether a suggestion is shown, and so can be accepted.
---@return boolean
function M.is_visible()
  return drawn ~= nil
end

---What is shown: the suggestion, and its view. Where keys come faster than Neovim tells of them, as
---in a mapping or a paste, it is first made to fit what they did.
---@return dlm.Suggestion?
---@return dlm.View?
function M.shown()
  if drawn then
    refresh()
  end
  return current, drawn
end

---Draws the suggestion anew, after a part of it was accepted or another alternative was chosen.
M.refresh = refresh

---Drops the suggestion at the user's wish; the next key asks again.
---@return boolean whether there was one
function M.dismiss()
  local had = current ~= nil
  M.clear('it was dismissed')
  return had
end

---The usual time to an answer in milliseconds.
---@return number?
function M.latency()
  return delay.latency(rhythm)
end

---The timers that run now; none does while the user rests.
---@return integer
function M.num_timers()
  return (asking:is_active() and 1 or 0) + (drawing:is_waiting() and 1 or 0)
end

return M
