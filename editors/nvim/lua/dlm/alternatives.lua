-- Alternatives to the suggestion that is shown, for which the server is asked when they are wanted.

local items_of = require('dlm.items')
local suggestion_of = require('dlm.suggestion')

local M = {}

local INVOKED = 1

-- Asks for several answers, and then shows the one that is so many steps away from what is shown.
local function ask(suggestion, shown, step)
  local client = vim.lsp.get_client_by_id(suggestion.client)
  if not client then
    return
  end
  local further = suggestion_of.origin_at(client, suggestion.window)
  further.is_invoked, further.is_final = true, true
  local params = vim.lsp.util.make_position_params(further.window, client.offset_encoding)
  params.context = { triggerKind = INVOKED }
  local _, request = client:request(suggestion_of.METHOD, params, function(error, result)
    if suggestion_of.shown() ~= suggestion or error or type(result) ~= 'table' then
      return
    end
    local items = items_of.read(result, further, client.offset_encoding)
    further.items = items_of.with(items, shown)
    further.index = #further.items > 1 and step % #further.items + 1 or 1
    suggestion_of.begin(further)
  end, suggestion.buffer)
  further.version, suggestion.request = vim.lsp.util.buf_versions[suggestion.buffer], request
end

---Shows the next alternative, or with a negative step an earlier one.
---@param step integer
function M.cycle(step)
  local suggestion, view = suggestion_of.shown()
  if not suggestion or not view or not suggestion.is_final then
    return
  end
  if not suggestion.is_invoked then
    ask(suggestion, view.text, step)
    return
  end
  suggestion.index = (suggestion.index - 1 + step) % #suggestion.items + 1
  suggestion_of.refresh()
end

return M
