-- A language server inside Neovim that does what a test tells it: which answers and notifications
-- come, in which order and when. It stands where the process would, behind Neovim's own client.

Stub = { log = {}, pending = {}, encoding = 'utf-8', is_up = false, starts = 0, auto = {} }

local dispatchers
local last_id = 0

-- What would arrive after a journey as JSON.
local function sent(value)
  return vim.json.decode(vim.json.encode(value))
end

local function initialized()
  return {
    capabilities = {
      positionEncoding = Stub.encoding,
      textDocumentSync = { openClose = true, change = 2 },
      inlineCompletionProvider = vim.empty_dict(),
      executeCommandProvider = { commands = { 'dlm.accepted' } },
    },
    serverInfo = { name = 'stub' },
  }
end

function Stub.start(given)
  dispatchers = given
  Stub.is_up, Stub.starts = true, Stub.starts + 1
  local rpc = {}
  function rpc.request(method, params, callback)
    last_id = last_id + 1
    local id = last_id
    local entry =
      { method = method, params = sent(params or vim.NIL), id = id, callback = callback }
    table.insert(Stub.log, entry)
    local key = method == 'workspace/executeCommand' and params.command or method
    if method == 'initialize' then
      vim.schedule(function()
        callback(nil, initialized())
      end)
    elseif method == 'shutdown' then
      vim.schedule(function()
        callback(nil, vim.NIL)
      end)
    elseif Stub.auto[key] ~= nil then
      vim.schedule(function()
        callback(nil, sent(Stub.auto[key]))
      end)
    else
      Stub.pending[id] = entry
    end
    return true, id
  end
  function rpc.notify(method, params)
    table.insert(Stub.log, { method = method, params = sent(params or vim.NIL) })
    if method == '$/cancelRequest' then
      local entry = Stub.pending[params.id]
      Stub.pending[params.id] = nil
      if entry then
        vim.schedule(function()
          entry.callback({ code = -32800, message = 'cancelled' }, nil)
        end)
      end
    elseif method == 'exit' then
      Stub.is_up = false
      vim.schedule(function()
        given.on_exit(0, 0)
      end)
    end
    return true
  end
  function rpc.is_closing()
    return not Stub.is_up
  end
  function rpc.terminate()
    if Stub.is_up then
      Stub.is_up = false
      given.on_exit(0, 15)
    end
  end
  return rpc
end

-- Forgets what was asked; requests in flight are never answered.
function Stub.reset()
  Stub.log, Stub.pending, Stub.auto = {}, {}, {}
end

-- The messages of a method, oldest first, without what cannot leave Neovim.
function Stub.messages(method)
  local found = {}
  for _, entry in ipairs(Stub.log) do
    if entry.method == method then
      table.insert(found, { params = entry.params, id = entry.id })
    end
  end
  return found
end

function Stub.answer(id, result)
  local entry = assert(Stub.pending[id], 'no such request')
  Stub.pending[id] = nil
  entry.callback(nil, sent(result == nil and vim.NIL or result))
end

function Stub.refuse(id, code, message)
  local entry = assert(Stub.pending[id], 'no such request')
  Stub.pending[id] = nil
  entry.callback({ code = code, message = message }, nil)
end

function Stub.notify(method, params)
  dispatchers.notification(method, sent(params))
end

-- Ends as a process does that was killed.
function Stub.crash()
  Stub.is_up = false
  Stub.pending = {}
  dispatchers.on_exit(1, 9)
end
