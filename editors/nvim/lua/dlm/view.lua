-- What is drawn of a suggestion: its text without what was typed since, cut to what may be shown
-- while it is a draft. Draws nothing and keeps nothing but the draft's first height.

local config = require('dlm.config')
local ghost = require('dlm.ghost')
local stale = require('dlm.stale')
local text_of = require('dlm.text')

local M = {}

-- The text to show: nothing, while it does not fit what was typed. Returns the reason to drop it.
local function remaining(suggestion, typed)
  local item = suggestion.items[suggestion.index]
  if not item then
    return nil
  end
  local rest = stale.rest(item.text, typed)
  if rest then
    return rest
  end
  if suggestion.is_final then
    return nil, 'something else was typed'
  end
  if not stale.may_continue(item.text:sub(1, item.committed), typed) then
    return nil, 'something else was typed'
  end
end

-- What may be shown of a text that is not final yet.
local function presentable(suggestion, rest, newlines)
  if suggestion.is_final then
    return rest, nil
  end
  local lines = text_of.lines(rest)
  if config.get().draft == 'first-line' then
    return lines[1], nil
  end
  if not suggestion.height or (suggestion.is_growing and #lines + newlines > suggestion.height) then
    suggestion.height = #lines + newlines
  end
  local height = math.max(1, suggestion.height - newlines)
  return table.concat(lines, '\n', 1, math.min(#lines, height)), height
end

-- What stands at the cursor before anything has come.
local function waiting_view(suggestion, now, hint)
  return {
    buffer = suggestion.buffer,
    window = suggestion.window,
    row = now.row,
    column = now.column,
    text = '',
    committed = 0,
    spans = {},
    after = '',
    replaced = 0,
    hint = hint,
    offset = 0,
  }
end

---Returns what is to be drawn of a suggestion, or nil and the reason to drop it; nil alone while it
---does not fit what was typed, but may again.
---@param suggestion dlm.Suggestion
---@param now dlm.Now
---@param typed string what was typed since it was asked for
---@param passed integer how many bytes right of the cursor were typed over
---@return dlm.View?, string?
function M.of(suggestion, now, typed, passed)
  local item = suggestion.items[suggestion.index]
  local rest, reason = remaining(suggestion, typed)
  local hint
  if suggestion.is_growing and not suggestion.is_final then
    hint = '… filling'
  elseif #suggestion.items > 1 then
    hint = ('(%d/%d)'):format(suggestion.index, #suggestion.items)
  end
  if suggestion.is_growing and not item then
    return waiting_view(suggestion, now, hint)
  end
  if not rest or rest == '' then
    return nil, reason
  end
  local text, height = presentable(suggestion, rest, text_of.count_newlines(typed))
  local spans = {}
  for _, span in ipairs(item.spans) do
    spans[#spans + 1] = {
      start = span.start - #typed,
      stop = span.stop - #typed,
      confidence = span.confidence,
    }
  end
  local replaced = math.max(0, item.replaced - passed)
  local after = suggestion.after:sub(passed + 1)
  if passed < 0 then
    -- A closing bracket was put behind the cursor, as plugins do: the suggestion's own one is it.
    local last = now.lines[#now.lines]
    after = last:sub(now.column + 1)
    if not ghost.kept_at(rest, after, replaced) then
      return nil, 'something else was typed'
    end
  end
  return {
    buffer = suggestion.buffer,
    window = suggestion.window,
    row = now.row,
    column = now.column,
    text = text,
    committed = math.max(0, item.committed - #typed),
    spans = spans,
    after = after,
    replaced = replaced,
    height = height,
    hint = hint,
    offset = #typed,
  }
end

return M
