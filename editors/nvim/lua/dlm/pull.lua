-- `:Dlm pull`: brings a real model through the server, with progress on the screen.

local client_of = require('dlm.client')
local status = require('dlm.status')
local tell = require('dlm.tell').tell

local M = {}

---@type string?
local token
local number = 0

local function show(value)
  local text = value.message or value.title or ''
  if value.percentage then
    text = ('%d %% %s'):format(value.percentage, text)
  end
  status.progress(text)
  -- One line of the message area, written again and again, which never waits for Enter.
  local room = math.max(10, vim.o.columns - 20)
  vim.api.nvim_echo({ { 'dlm: ' .. vim.fn.strcharpart(text, 0, room) } }, false, {})
end

local function listen()
  local group = vim.api.nvim_create_augroup('dlm.pull', {})
  vim.api.nvim_create_autocmd('LspProgress', {
    group = group,
    callback = function(event)
      local params = event.data and event.data.params
      if params and params.token == token and type(params.value) == 'table' then
        show(params.value)
      end
    end,
  })
  return group
end

---Pulls a model.
---@param name string? the best for this machine if nil
function M.start(name)
  local client = client_of.any()
  if not client then
    tell('The language server does not run; open a file first.', vim.log.levels.WARN)
    return
  end
  if token then
    tell('A model is being pulled already.')
    return
  end
  number = number + 1
  token = ('dlm-pull-%d-%d'):format(vim.fn.getpid(), number)
  local group = listen()
  client_of.execute(
    client,
    'dlm.pullModel',
    name and { name = name } or nil,
    function(error, result)
      token = nil
      vim.api.nvim_del_augroup_by_id(group)
      status.progress(nil)
      result = type(result) == 'table' and result or {}
      if result.pulled then
        tell(('%s is here.'):format(result.name))
      else
        local reason = error and error.message or result.reason or 'no answer came.'
        tell('No model was pulled: ' .. reason, vim.log.levels.WARN)
      end
    end,
    token
  )
end

---Ends a pull; what was downloaded is kept.
---@return boolean whether there was one
function M.cancel()
  local client = client_of.any()
  if not token or not client then
    return false
  end
  client_of.execute(client, 'dlm.cancel', { token = token })
  return true
end

return M
