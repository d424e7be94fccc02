-- The language server as an LSP client of Neovim: how it is started, found for a buffer and asked.

local config = require('dlm.config')
local server = require('dlm.server')

local M = {}

M.name = 'dlm_lsp'

local RESTARTS_MAX = 3
local restarts = 0
local told = {}

local function tell_once(message)
  if not told[message] then
    told[message] = true
    vim.schedule(function()
      require('dlm.tell').tell(message, vim.log.levels.WARN)
    end)
  end
end

---Whether this plugin, and not Neovim's own inline completion, shows the suggestions.
---@return boolean
function M.is_plugin()
  return vim.g.loaded_dlm == 'plugin'
end

---The file that the server writes its log into.
---@return string
function M.log_file()
  return vim.fn.stdpath('log') .. '/dlm-lsp.log'
end

---The command of the server for a project.
---@param project string?
---@return string[]?
---@return string? why not
function M.command(project)
  local settings = config.get()
  if settings.cmd then
    if vim.fn.executable(settings.cmd[1]) == 1 then
      return settings.cmd
    end
    return nil, ("%s, which 'cmd' names, cannot be run."):format(settings.cmd[1])
  end
  local program, why = server.find(project, settings.trusted)
  if not program then
    return nil, why
  end
  vim.fn.mkdir(vim.fs.dirname(M.log_file()), 'p')
  return { program, '--stdio', '--log-file', M.log_file() }
end

---Calls back with a buffer's project if the server is to be attached to the buffer.
---@param buffer integer
---@param on_root fun(root: string?)
function M.root(buffer, on_root)
  local root = server.root(buffer)
  if M.is_plugin() then
    if vim.api.nvim_buf_get_name(buffer) == '' then
      return -- Several buffers without a name would be one document.
    end
    -- A command that the user gave with vim.lsp.config is the user's affair.
    if vim.lsp.config[M.name].cmd == M.start then
      local command, why = M.command(root or vim.uv.cwd())
      if not command then
        -- In few words: a message of two lines would wait for Enter while Neovim starts.
        M.missing = why
        tell_once('the language server cannot be started; see :checkhealth dlm')
        return
      end
    end
  end
  on_root(root)
end

---Starts the server's process.
---@param dispatchers vim.lsp.rpc.Dispatchers
---@param client_config vim.lsp.ClientConfig?
---@return vim.lsp.rpc.PublicClient
function M.start(dispatchers, client_config)
  local root = client_config and client_config.root_dir
  local command, why = M.command(root or vim.uv.cwd())
  if not command then
    error('dlm: ' .. why, 0)
  end
  return vim.lsp.rpc.start(command, dispatchers, { cwd = root })
end

---Asks for drafts and status, and says that inline completions are understood.
---@param params lsp.InitializeParams
function M.before_init(params)
  if not M.is_plugin() then
    return
  end
  local given = params.initializationOptions
  given = type(given) == 'table' and (given.dlm or given) or {}
  params.initializationOptions = { dlm = vim.tbl_deep_extend('force', config.for_server(), given) }
  local text_document = params.capabilities.textDocument or {}
  text_document.inlineCompletion = text_document.inlineCompletion or vim.empty_dict()
  params.capabilities.textDocument = text_document
end

---@param code integer
---@param signal integer
---@param client_id integer
function M.on_exit(code, signal, client_id)
  if not M.is_plugin() then
    return
  end
  vim.schedule(function()
    require('dlm.suggestion').lost(client_id)
    require('dlm.proposal').lost(client_id)
    if vim.v.exiting ~= vim.NIL or M.is_stopping or (code == 0 and signal == 0) then
      M.is_stopping = false
      return
    end
    local message = ('The language server ended with status %d.'):format(code)
    require('dlm.status').failed(message)
    if restarts < RESTARTS_MAX then
      restarts = restarts + 1
      M.attach_all()
    else
      tell_once(message .. ' It is not started again by itself; see :Dlm log and :Dlm restart.')
    end
  end)
end

---Attaches the server to every buffer that it is for, starting it if necessary.
function M.attach_all()
  if not vim.lsp.is_enabled or not vim.lsp.is_enabled(M.name) then
    vim.lsp.enable(M.name)
    return
  end
  for _, buffer in ipairs(vim.api.nvim_list_bufs()) do
    if vim.api.nvim_buf_is_loaded(buffer) and vim.bo[buffer].filetype ~= '' then
      M.attach(buffer)
    end
  end
end

---Attaches the server to a buffer that Neovim would attach it to.
---@param buffer integer
function M.attach(buffer)
  pcall(vim.api.nvim_exec_autocmds, 'FileType', { group = 'nvim.lsp.enable', buffer = buffer })
end

---Lets the server be started again by itself, after the user has started it.
function M.forgive()
  restarts, told = 0, {}
end

---@param buffer integer
---@return vim.lsp.Client?
function M.of(buffer)
  return vim.lsp.get_clients({ name = M.name, bufnr = buffer })[1]
end

---A running server, the current buffer's if it has one.
---@return vim.lsp.Client?
function M.any()
  return M.of(vim.api.nvim_get_current_buf()) or vim.lsp.get_clients({ name = M.name })[1]
end

---Runs one of the server's commands.
---@param client vim.lsp.Client
---@param command string
---@param argument table?
---@param on_answer fun(error: lsp.ResponseError?, result: any)?
---@param token string? names the request in drafts, progress and `dlm.cancel`
---@return integer? request
function M.execute(client, command, argument, on_answer, token)
  local params = {
    command = command,
    arguments = { argument or vim.empty_dict() },
    workDoneToken = token,
  }
  local _, request = client:request('workspace/executeCommand', params, function(error, result)
    if on_answer then
      on_answer(error, result ~= vim.NIL and result or nil)
    end
  end)
  return request
end

-- Runs a command that a code action names; what the plugin shows itself it also asks for itself.
local function run_here(command, context, run)
  local client = vim.lsp.get_client_by_id(context.client_id)
  if not client then
    return
  end
  if M.is_plugin() then
    run((command.arguments or {})[1] or {})
  else
    local params = { command = command.command, arguments = command.arguments }
    client:request('workspace/executeCommand', params)
  end
end

M.commands = {
  ['dlm.fill'] = function(command, context)
    run_here(command, context, function()
      require('dlm.fill').start()
    end)
  end,
  ['dlm.nextEdit'] = function(command, context)
    run_here(command, context, function()
      require('dlm.next_edit').go()
    end)
  end,
  ['dlm.refine'] = function(command, context)
    run_here(command, context, function(argument)
      require('dlm.refine').start_at(argument.range)
    end)
  end,
}

---@type table<string, fun(params: table, client_id: integer)[]>
local listeners = {}

---Calls a function for each of the server's notifications of a method.
---@param method string
---@param listener fun(params: table, client_id: integer)
function M.listen(method, listener)
  listeners[method] = listeners[method] or {}
  table.insert(listeners[method], listener)
end

-- The server's notifications as Neovim's client hands them over. Whatever they hold, nothing
-- breaks.
local function handler(method)
  return function(_, params, context)
    if type(params) ~= 'table' then
      return
    end
    for _, listener in ipairs(listeners[method] or {}) do
      local ok, problem = pcall(listener, params, context.client_id)
      if not ok then
        vim.lsp.log.warn('dlm', method, problem)
      end
    end
  end
end

-- Offers the real model by this plugin's own command, where the server says that there is none.
local function offer(_, params, context)
  local message = type(params) == 'table' and params.message
  if M.is_plugin() and type(message) == 'string' and message:find('dlm.pullModel', 1, true) then
    -- In few words: a message of two lines would wait for Enter while Neovim starts.
    require('dlm.tell').tell('only the small bundled model is here; get a real one by :Dlm pull')
    return vim.NIL
  end
  return vim.lsp.handlers['window/showMessage'](nil, params, context)
end

M.handlers = {
  ['window/showMessage'] = offer,
  ['dlm/draft'] = handler('dlm/draft'),
  ['dlm/status'] = handler('dlm/status'),
  ['dlm/refinement'] = handler('dlm/refinement'),
}

return M
