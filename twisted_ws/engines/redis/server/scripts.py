"""What the server executes: scripts in Lua, each of which is one atomic step.

Keys, behind the prefix:

| key | what |
| --- | --- |
| ``gate`` hash | ``v`` the version of this model, ``run`` the run_id of the server, ``gen`` a random name of this generation, ``until`` ms: closed until then, and until somebody opens it; 0: open; ``most`` ms: it is not closed for longer, even if much is given back |
| ``open`` string | the generation, once the gate is open |
| ``m:{channel}`` string | where the channel is, as `_STATE` has it |
| ``s:{channel}`` stream | the messages: entry ``0-{offset}`` with one field, a record |
| ``r:{channel}:{key}`` string | the answer to a publication with an idempotency key |
| ``c:{channel}`` hash | subscribers by node |
| ``p:{channel}``, ``i:{channel}`` hash, ``z:{channel}`` sorted set | presence: by user, connections at each node and what is said of them; the users by name |
| ``lv`` sorted set | who has left a channel, by when that is told |
| ``ns:{node}`` set | where a node is counted: channels, and channels with users |
| ``leases`` sorted set, ``nodes`` hash | the nodes by the end of their leases, and what they say of themselves |
| ``names`` sorted set | the channels by name; some may be gone |
| ``k:{key}`` string | a claim, by whom |
| ``clock`` string | ms at the last probe of any node |
| ``rv`` sorted set | revocations by their end |

A record (`twisted_ws.engines.redis.record`) is what the stream keeps and subscribers get: an array of msgpack whose first elements are
written here, each in its longest form, so that a number is always in the same place. They are called its head.
A script that writes what a closed gate protects answers ``closed`` then.
"""  # noqa: E501 - a table

from __future__ import annotations

from hashlib import sha1

# The version of the data model, and of the records.
VERSION = 2
# A channel is remembered for so many times the age of its history, and for so many ms at least: it is looked at twice a minute.
REMEMBERED = 10
REMEMBERED_LEAST = 120_000
# A gate is closed for so many times as long as usual, at most, while nodes give back what the server did not have.
LONGEST = 5

_GATE = """
local function closed(open, gen)
  return redis.call('GET', open) ~= gen
end
"""

_TIME = """
local function ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
local function whole(n)
  if n < 1e14 then return n .. '' end  -- which Lua writes in full, and faster
  return string.format('%.0f', n)
end
"""

# Where a channel is: e epoch, g the generation that the epoch began in, o last offset, w bytes charged so far, l the same at the
# first message that is kept, at least, x when the expiry was set, t subscribers of all nodes, h the limits of the history
# (messages, ms, bytes), b the last positions of earlier epochs, i the instances that have published, the last one first (name,
# last number, time). In binary: to write a number in digits takes as long as a tenth of the whole script.
_STATE = """
local function read(state)
  local e, g, o, w, l, x, t, h, b, at = struct.unpack('>c14c10dddddc24s', state)
  return e, o, g, w, l, x, t, h, b, string.sub(state, at)
end
local function packed(e, o, g, w, l, x, t, h, b, i)
  return struct.pack('>c14c10dddddc24s', e, g, o, w, l, x, t, h, b) .. i
end
"""

# The instances of a channel that nobody has published to.
_NOBODY = "local NOBODY = struct.pack('>c8dd', '--------', 0, 0) "

_INSTANCES = """
local function numbered(i, instance)
  -- Where an instance is in i, and its last number.
  local at = string.find(i, instance, 1, true)
  while at and at % 24 ~= 1 do at = string.find(i, instance, at + 1, true) end
  if at then return at, (struct.unpack('>d', i, at + 8)) end
end
local function without(i, at)
  return string.sub(i, 1, at - 1) .. string.sub(i, at + 24)
end
local function recent(i, now)
  -- Instances that have gone leave their last number behind; nothing is sent again after a minute.
  local kept = {}
  for at = 1, #i, 24 do
    if now - struct.unpack('>d', i, at + 16) <= 60000 then kept[#kept + 1] = string.sub(i, at, at + 23) end
  end
  return table.concat(kept)
end
"""

# An epoch begins with its time, so of two the later one is the greater one.
_EPOCH = """
local function epoch(before, now, tag)
  if before then
    local was = tonumber(string.sub(before, 1, 11), 16)
    if was and was >= now then now = was + 1 end
  end
  return string.format('%011x', now) .. tag
end
local function create(prefix, channel)
  -- Returns the subscribers that are counted already.
  redis.call('DEL', prefix .. 's:' .. channel)
  redis.call('ZADD', prefix .. 'names', 0, channel)
  return others(prefix .. 'c:' .. channel, '')
end
local function bounded(b, e, o)
  b = b .. e .. ':' .. whole(o) .. ' '
  while #string.gsub(b, '[^ ]', '') > 8 do b = string.gsub(b, '^%S+ ', '') end
  return b
end
"""

_HISTORY = """
local function head(record)
  -- Epoch, offset, instance, number, time, bytes charged before it; nothing for what is not a record.
  if not record or #record < 62 or string.byte(record, 3) ~= 174 then return end
  return struct.unpack('>xxxc14xI8xc8xI8xI8xI8', record)
end
local function first(s)
  local found = redis.call('XRANGE', s, '-', '+', 'COUNT', 1)[1]
  if found then return tonumber(string.sub(found[1], 3)), found[2][2] end
end
local function cut(s, low, high, isKept)
  -- The first entry from low to high that is kept; high + 1 if none is. Those before it go.
  high = high + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id = '0-' .. whole(middle)
    local found = redis.call('XRANGE', s, id, id)[1]
    if found and isKept(found[2][2]) then high = middle else low = middle + 1 end
  end
  redis.call('XTRIM', s, 'MINID', '0-' .. whole(low))
  return low
end
local function tooLarge(s, o, w, most)
  -- Down to nine tenths, so that not every message has to search. Returns the bytes charged before the first that is kept.
  local low, record = first(s)
  if not low then return w end
  local from = select(6, head(record)) or 0
  if w - from > most then
    low = cut(s, low, o, function(each)
      local before = select(6, head(each))
      return before and w - before <= most * 0.9
    end)
    from = select(6, head(select(2, first(s)))) or w
  end
  return from
end
local function tidy(s, o, h, now)
  -- Forget what the limits say; the number of messages is only approximate until then.
  local messages, age = struct.unpack('>dd', h)
  if redis.call('XLEN', s) > messages then redis.call('XTRIM', s, 'MAXLEN', messages) end
  local low, record = first(s)
  local at = select(5, head(record))
  if at and at <= now - age then
    cut(s, low, o, function(each)
      local time = select(5, head(each))
      return time and time > now - age
    end)
  end
end
"""

_COUNTS = """
local function others(c, node)
  local sum, found = 0, redis.call('HGETALL', c)
  for n = 1, #found, 2 do
    if found[n] ~= node then sum = sum + found[n + 1] end
  end
  return sum
end
"""

_HELLO = """
local key, open, version, run, gen, rest, ctl = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'hash' then return {'foreign'} end
local gate = redis.call('HMGET', key, 'v', 'run', 'gen', 'until')
if kind == 'hash' and not gate[1] then return {'foreign'} end
if gate[1] and gate[1] ~= version then return {'version', gate[1]} end
local now = ms()
if gate[2] ~= run or not gate[3] or not gate[4] then
  redis.call('DEL', key, open)
  local most = whole(now + LONGEST * rest)
  redis.call('HSET', key, 'v', version, 'run', run, 'gen', gen, 'until', whole(now + rest), 'most', most)
  redis.call('PUBLISH', ctl, 'gate ' .. gen)
  return {'ok', gen, rest}
end
if gate[4] == '0' then return {'ok', gate[3], 0} end
local left = gate[4] - now
if left > rest then  -- the server's clock was set back
  left = rest
  redis.call('HSET', key, 'until', whole(now + rest))
end
return {'ok', gate[3], math.max(left, 1)}
"""

_OPEN = """
local gate = redis.call('HMGET', KEYS[1], 'run', 'gen', 'until')
if gate[1] ~= ARGV[1] or gate[2] ~= ARGV[2] then return {'closed'} end
local left = gate[3] - ms()
if gate[3] ~= '0' and left > 0 then return {'wait', left} end
redis.call('HSET', KEYS[1], 'until', '0')
redis.call('SET', KEYS[2], ARGV[2])
return {'open'}
"""

# Several messages of one node: KEYS are the gate's and the channels'; ARGV is what they have in common, and then, for each,
# what is said of it and the message itself. The answer has two elements for each.
_PUBLISH = """
local all = redis.call('MGET', unpack(KEYS))
local prefix, to, gen, tag, instance, h0, memory, node = struct.unpack('>I2c0I2c0c10c3c8c24dI2c0', ARGV[1])
if all[1] ~= gen then return {'closed'} end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)

local function publish(said, body)
  local k, number, again, own, here, h, at = struct.unpack('>I2dBddI1c0', said)
  if h == '' then h = h0 end
  local m, state = KEYS[k], all[k]
  local channel = string.sub(m, #prefix + 3)
  local s, receipt, fingerprint = prefix .. 's:' .. channel
  if here >= 0 then
    receipt, fingerprint = struct.unpack('>I2c0I2c0', said, at)
    receipt = prefix .. 'r:' .. channel .. ':' .. receipt
    local known = redis.call('GET', receipt)
    if known then
      local e, o, recipients, from = struct.unpack('>c14dd', known)
      if fingerprint ~= string.sub(known, from) then return 'reused', 0 end
      return 'known', {string.format('%s:%.0f', e, o), recipients}
    end
  end
  local e, g, o, w, l, x, t, h1, b, i, mine, last
  if state then
    e, g, o, w, l, x, t, h1, b, i, mine, last, at = struct.unpack('>c14c10dddddc24sc8dd', state)
    if i == instance then
      i = string.sub(state, at)
    else
      i = string.sub(state, at - 24)
      local numbered, without, recent = instances()
      at, mine = numbered(i, instance)
      if at then i = without(i, at) elseif #i > 960 then i = recent(i, now) end
    end
    if own < 0 then own = tonumber(redis.call('HGET', prefix .. 'c:' .. channel, node)) or 0 end
    t = t - own
    if mine and mine >= number then
      -- It was perhaps here already: sent again, or late, from a connection that its node has given up.
      local head = history()
      local from, seen = '+', 0
      while true do
        local found = redis.call('XREVRANGE', s, from, '-', 'COUNT', 100)
        for _, entry in ipairs(found) do
          local e2, o2, instance2, number2 = head(entry[2][2])
          if instance2 == instance and number2 == number then
            return 'known', {string.format('%s:%.0f', e2, o2), t, string.sub(entry[2][2], 1, 62)}
          end
          seen = tonumber(string.sub(entry[1], 3))
        end
        if #found < 100 then break end
        from = '(' .. found[100][1]
      end
      -- Not in a history that is whole: it was never published. Else what was sent again is taken for one that is forgotten.
      if again == 1 and seen ~= 1 then return 'known', {string.format('%s:%.0f', e, o), t} end
    end
    if g ~= gen then
      local epoch, _, bounded = epochs()
      b = bounded(b, e, o)
      e, g = epoch(e, now, tag), gen
    end
  else
    local epoch, create = epochs()
    e, g, o, w, l, x, b, i = epoch(nil, now, tag), gen, 0, 0, 0, 0, '', ''
    t = create(prefix, channel)
    own = tonumber(redis.call('HGET', prefix .. 'c:' .. channel, node)) or 0
    t = t - own
  end
  o = o + 1
  local line = struct.pack(
    '>BBBc14BI8Bc8BI8BI8BI8', 155, 2, 174, e, 207, o, 168, instance, 207, number, 207, now, 207, w)
  local record = line .. body
  w = w + #body + 256
  local messages, age, bytes = struct.unpack('>ddd', h)
  if h1 ~= h then
    local _, _, tidy = history()
    if h1 then tidy(s, o - 1, h1, now) end
    x = 0
  end
  -- The expiry is not set with each message: they live a little longer.
  local isOld = now - x > age / 20
  if isOld then x = now end
  if messages > 0 then
    if o % 16 == 0 then
      redis.call('XADD', s, 'MAXLEN', '~', messages, '0-' .. whole(o), 'd', record)
    else
      redis.call('XADD', s, '0-' .. whole(o), 'd', record)
    end
    if w - l > bytes then
      local _, tooLarge = history()
      l = tooLarge(s, o, w, bytes)
    end
  end
  if mine and mine > number then number = mine end
  state = struct.pack('>c14c10dddddc24sc8dd', e, g, o, w, l, x, t + own, h, b, instance, number, now) .. i
  if isOld then
    redis.call('SET', m, state, 'PX', math.max(age * REMEMBERED, REMEMBERED_LEAST))
    redis.call('PEXPIRE', s, math.ceil(age * 1.05))
  else
    redis.call('SET', m, state, 'KEEPTTL')
  end
  all[k] = state
  if t < 0 then t = 0 end
  if receipt then
    t = t + here
    redis.call('SET', receipt, struct.pack('>c14dd', e, o, t) .. fingerprint, 'PX', memory)
  end
  redis.call('PUBLISH', to .. channel, record)
  return t, line
end

local answer = {}
for n = 2, #ARGV, 2 do
  local isDone, what, about = pcall(publish, ARGV[n], ARGV[n + 1])
  if not isDone then what, about = 'error', type(what) == 'table' and what.err or what end
  answer[n - 1], answer[n] = what, about
end
return answer
"""

# The way back of records into a channel: without gaps, from a place in the arguments on, and perhaps heard by those who watch it.
_APPEND = """
local function place(e2, o2, at)
  -- The first of the records that follow e2:o2.
  for n = at, #ARGV do
    local epoch, offset = head(ARGV[n])
    if epoch == e2 and offset == o2 then return n + 1 end
    if epoch == e2 and offset == o2 + 1 then return n end
  end
end
local function append(s, prefix, channel, limits, memory, to, at, e2, o2, w, b, i)
  for n = at, #ARGV do
    local epoch, offset, instance, number, time = head(ARGV[n])
    if epoch ~= e2 then
      b = bounded(b, e2, o2)
      e2 = epoch
    end
    o2 = offset
    local record = string.sub(ARGV[n], 1, 54) .. struct.pack('>I8', w) .. string.sub(ARGV[n], 63)
    w = w + #record - 62 + 256
    if struct.unpack('>d', limits) > 0 then redis.call('XADD', s, '0-' .. whole(offset), 'd', record) end
    local size = string.byte(record, 63)
    if size == 196 or size == 197 then  -- there is a receipt: binary of one byte of length, or of two
      local key, fingerprint = struct.unpack('>I2c0I2c0', record, size - 131)
      local known = struct.pack('>c14dd', e2, offset, 0) .. fingerprint
      redis.call('SET', prefix .. 'r:' .. channel .. ':' .. key, known, 'PX', memory, 'NX')
    end
    local mine, was = numbered(i, instance)
    if not was or was < number then i = struct.pack('>c8dd', instance, number, time) .. (mine and without(i, mine) or i) end
    if to then redis.call('PUBLISH', to .. channel, record) end
  end
  return w, b, i
end
"""

# What nodes remember of a channel, while the gate is closed: its position, and records without gaps that end there.
_REPAIR = """
local gate, m, s = KEYS[1], KEYS[2], KEYS[3]
local run, gen, channel, e, o, final, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local limits, age, prefix, memory = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local is = redis.call('HMGET', gate, 'run', 'gen', 'until', 'most')
if is[1] ~= run or is[2] ~= gen then return {'closed'} end
if is[3] == '0' then return {'open'} end
local e2, o2, g, w, l, x, t, h, b, i
local state = redis.call('GET', m)
if state then e2, o2, g, w, l, x, t, h, b, i = read(state) end
if e2 and (e2 > e or (e2 == e and o2 >= o)) then return {'has'} end
local from = e2 and place(e2, o2, 12)
if not from then
  -- Begin with the first record. If something is missing in between, somebody else may still give it back.
  if e2 and final ~= '1' then return {'gap'} end
  t = create(prefix, channel)
  from, e2, o2, w, b = 12, e, o, w or 0, b or ''
  if ARGV[12] then e2, o2 = head(ARGV[12]) end
end
g, l, x, h, i = g or '----------', l or 0, x or 0, h or limits, i or NOBODY
w, b, i = append(s, prefix, channel, limits, memory, nil, from, e2, o2, w, b, i)
redis.call('SET', m, packed(e, o, g, w, l, x, t, h, b, i), 'PX', ttl)
redis.call('PEXPIRE', s, age)
-- Who gives back very many channels needs longer than the gate is closed: while it has something new, others wait for it.
local later = math.min(ms() + 250, tonumber(is[4]) or 0)
if later > tonumber(is[3]) then redis.call('HSET', gate, 'until', whole(later)) end
return {'ok'}
"""

# The same of a node that was too late for that. What follows on what the channel has is appended, and heard. What was numbered
# here *and* where the node was cannot be put in order any more: the channel begins anew, and everybody is told.
# An epoch of which nobody knows how far it was common to all is noted as one that ends at "-".
_SETTLE = """
local open, m, s = KEYS[1], KEYS[2], KEYS[3]
local gen, channel, e, o, ttl, limits, age = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local prefix, memory, to, tag = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
if closed(open, gen) then return {'closed'} end
local state = redis.call('GET', m)
local e2, o2, g, w, l, x, t, h, b, i
if state then
  e2, o2, g, w, l, x, t, h, b, i = read(state)
else
  e2, o2, g, w, l, x, t, h, b, i = e, o, '----------', 0, 0, 0, create(prefix, channel), limits, '', NOBODY
  if ARGV[12] then e2, o2 = head(ARGV[12]) end
end
local from = 12
if state then
  if e2 == e and o2 >= o then return {'has'} end
  for epoch, last in string.gmatch(b, '(%w+):(%S+)') do
    if epoch == e and (last == '-' or tonumber(last) >= o) then return {'has'} end
  end
  from = place(e2, o2, 12)
end
if from then
  w, b, i = append(s, prefix, channel, limits, memory, to, from, e2, o2, w, b, i)
  redis.call('SET', m, packed(e, o, g, w, l, x, t, h, b, i), 'PX', ttl)
  redis.call('PEXPIRE', s, age)
  return {'ok'}
end
local now = ms()
if e ~= e2 then b = bounded(b, e, 0) end
b = string.gsub(bounded(b, e2, o2), ':%S+', ':-')
redis.call('DEL', s)
local new = epoch(e > e2 and e or e2, now, tag)
redis.call('SET', m, packed(new, o2, gen, w, w, 0, t, h, b, i), 'PX', ttl)
redis.call('PUBLISH', to .. channel, '!' .. new .. ':' .. whole(o2))
return {'broken'}
"""

_WATCH = """
local open, m = KEYS[1], KEYS[2]
local gen, prefix, channel, tag, ttl, limits, mayMake = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if closed(open, gen) then return {'closed'} end
local state = redis.call('GET', m)
if state then
  local e, o = read(state)
  return {'ok', e, whole(o), 0}
end
if mayMake ~= '1' then return {'full'} end
local e = epoch(nil, ms(), tag)
local t = create(prefix, channel)
redis.call('SET', m, packed(e, 0, gen, 0, 0, 0, t, limits, '', NOBODY), 'PX', ttl)
return {'ok', e, '0', 1}
"""

# The positions of many channels, which are kept alive.
_TOPS = """
local found = {}
for n, m in ipairs(KEYS) do
  local state = redis.call('GET', m)
  if state then
    local e, o = read(state)
    found[n] = e .. ':' .. whole(o)
    if redis.call('PTTL', m) < tonumber(ARGV[1]) then redis.call('PEXPIRE', m, ARGV[1]) end
  else
    found[n] = ''
  end
end
return found
"""

# A channel that does not exist has a position: "0", the minute and the generation. Nothing is missed since then if it now has
# all its messages now, and cannot have been forgotten in between.
_SINCE = """
local open, m, s = KEYS[1], KEYS[2], KEYS[3]
local gen, e, offset, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most, largest, known, age = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
if closed(open, gen) then return {'closed'} end
local top, o, b, h, _
local state = redis.call('GET', m)
if state then top, o, _, _, _, _, _, h, b = read(state) end
local now = ms()
local recent = now - now % (age / 2)
local unborn = string.format('0%011x', recent) .. gen
local earlier = string.format('0%011x', recent - age / 2) .. gen
if string.sub(e, 1, 1) == '~' and known == '1' then
  return {'which', top or unborn, (b or '') .. unborn .. ':0 ' .. earlier .. ':0 '}
end
local isUnborn = e == unborn or e == earlier
if not top then return {'none', unborn, (e == '' or isUnborn) and 1 or 0} end
tidy(s, o, h, now)
local from = first(s) or o + 1
local recovered, at = 0, top
if e == '' then
  offset, recovered = from - 1, 1
elseif e == top then
  if offset > o then return {'ok', 0, top, whole(o), 0} end
  recovered = 1
else
  local last
  for epoch, value in string.gmatch(b, '(%w+):(%d+)') do
    if epoch == e then last = tonumber(value) end
  end
  if not last then
    offset = from - 1
    if isUnborn and from == 1 then recovered = 1 end
  elseif offset > last then
    -- What it has seen after that was lost, and perhaps more; what is here may be older than that.
    offset = o
  else
    recovered, at = 1, e
  end
end
if offset < from - 1 then offset, recovered, at = from - 1, 0, top end
local answer, size, next, more = {'ok', recovered, at, whole(offset), 0}, 0, offset, 0
while #answer - 5 < limit and next < o do
  local found = redis.call('XRANGE', s, '(0-' .. whole(next), '+', 'COUNT', math.min(limit - (#answer - 5), 50))
  if #found == 0 then break end
  for _, entry in ipairs(found) do
    if size > most then
      more = 1
      break
    end
    local record = entry[2][2] or ''
    if #record > largest then record = '' end
    size = size + #record
    next = tonumber(string.sub(entry[1], 3))
    answer[#answer + 1] = record
  end
  if more == 1 then break end
end
answer[5] = more
return answer
"""

_FORGET = """
local open, m, s = KEYS[1], KEYS[2], KEYS[3]
if closed(open, ARGV[1]) then return {'closed'} end
local state = redis.call('GET', m)
if not state then return {'ok', 0} end
local e, o, g, w, l, _, t, h, b, i = read(state)
tidy(s, o, h, ms())
local count = redis.call('XLEN', s)
redis.call('DEL', s)
-- The stream that comes next has no expiry yet.
redis.call('SET', m, packed(e, o, g, w, l, 0, t, h, b, i), 'KEEPTTL')
return {'ok', count}
"""

_DESCRIBE = """
local function describe(prefix, channel)
  local m, s = prefix .. 'm:' .. channel, prefix .. 's:' .. channel
  local state = redis.call('GET', m)
  if not state then return nil end
  local e, o, _, w, _, _, t, h = read(state)
  tidy(s, o, h, ms())
  local offset, record = first(s)
  local count, bytes, from = 0, 0, e
  if offset then
    local e2, _, _, _, _, w2 = head(record)
    from, count, bytes = e2 or e, redis.call('XLEN', s), w - (w2 or 0)
  end
  return {channel, e, whole(o), count, bytes, from, whole(offset or 0), t}
end
"""

_DESCRIBE_ONE = """
return describe(ARGV[1], ARGV[2])
"""

_LIST = """
local prefix, from, after, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local start, answer, looked = after >= from and '(' .. after or '[' .. from, {''}, 0
if start == '[' then start = '-' end
while #answer - 1 < limit do
  local found = redis.call('ZRANGEBYLEX', KEYS[1], start, '+', 'LIMIT', 0, 100)
  for _, channel in ipairs(found) do
    if string.sub(channel, 1, #from) ~= from then return answer end
    local is = describe(prefix, channel)
    if is then answer[#answer + 1] = is else redis.call('ZREM', KEYS[1], channel) end
    if #answer - 1 == limit then return answer end
    start = '(' .. channel
  end
  looked = looked + #found
  if #found < 100 then return answer end
  if looked >= 1000 then
    answer[1] = string.sub(start, 2)
    return answer
  end
end
return answer
"""

_COUNTED = """
local function counted(prefix, node, channel, count)
  -- How many are subscribed at a node: noted for each node, and the sum where the channel is.
  local c, m, before = prefix .. 'c:' .. channel, prefix .. 'm:' .. channel
  before = tonumber(redis.call('HGET', c, node)) or 0
  if count > 0 then redis.call('HSET', c, node, whole(count)) else redis.call('HDEL', c, node) end
  local state = count ~= before and redis.call('GET', m)
  if state then
    local e, o, g, w, l, x, t, h, b, i = read(state)
    redis.call('SET', m, packed(e, o, g, w, l, x, t + count - before, h, b, i), 'KEEPTTL')
  end
end
"""

_COUNT = """
local prefix, node = ARGV[1], ARGV[2]
for n = 3, #ARGV, 2 do
  local count = tonumber(ARGV[n + 1])
  counted(prefix, node, ARGV[n], count)
  redis.call(count > 0 and 'SADD' or 'SREM', KEYS[1], ARGV[n])
end
return {'ok'}
"""

_PRESENCE = """
local function present(prefix, to, node, channel, user, count, info, due)
  local p, i = prefix .. 'p:' .. channel, prefix .. 'i:' .. channel
  local before = redis.call('HGET', p, user)
  local now, left = '', prefix .. 'lv'
  for each, number in string.gmatch(before or '', '(%S+)=(%d+)') do
    if each ~= node then now = now .. each .. '=' .. number .. ' ' end
  end
  if tonumber(count) > 0 then now = now .. node .. '=' .. count .. ' ' end
  local mine = channel .. ' ' .. user
  if tonumber(count) > 0 then
    redis.call('SADD', prefix .. 'ns:' .. node, mine)
  else
    redis.call('SREM', prefix .. 'ns:' .. node, mine)
  end
  if now == before then return end
  if not before and now == '' then return end
  redis.call('HSET', p, user, now)
  if not before then
    redis.call('HSET', i, user, info)
    redis.call('ZADD', prefix .. 'z:' .. channel, 0, user)
    redis.call('PUBLISH', to .. channel, '+' .. #user .. ' ' .. user .. info)
  elseif now == '' then
    redis.call('ZADD', left, due, mine)
  elseif before == '' then
    redis.call('HSET', i, user, info)
    redis.call('ZREM', left, mine)
  end
end
"""

_ENTER = """
local prefix, to, node = ARGV[1], ARGV[2], ARGV[3]
local now = ms()
for n = 4, #ARGV, 5 do
  present(prefix, to, node, ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], now + ARGV[n + 4])
end
return {'ok'}
"""

# Tell of those who have not come back.
_SWEEP = """
local prefix, to = ARGV[1], ARGV[2]
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(ms()), 'LIMIT', 0, 100)
for _, each in ipairs(gone) do
  redis.call('ZREM', KEYS[1], each)
  local channel, user = string.match(each, '^(%S+) (.*)$')
  local p, i = prefix .. 'p:' .. channel, prefix .. 'i:' .. channel
  if redis.call('HGET', p, user) == '' then
    local info = redis.call('HGET', i, user) or 'null'
    redis.call('HDEL', p, user)
    redis.call('HDEL', i, user)
    redis.call('ZREM', prefix .. 'z:' .. channel, user)
    redis.call('PUBLISH', to .. channel, '-' .. #user .. ' ' .. user .. info)
  end
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {#gone, next[2] and math.max(math.ceil(next[2] - ms()), 0) or -1}
"""

_MEMBERS = """
local prefix, channel, after, limit, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local start = after == '' and '-' or '(' .. after
local users = redis.call('ZRANGEBYLEX', prefix .. 'z:' .. channel, start, '+', 'LIMIT', 0, limit + 1)
local answer, last = {others(prefix .. 'c:' .. channel, ''), 0}, 0
for n, user in ipairs(users) do
  if n > limit or (n > 1 and size <= 0) then
    answer[2] = 1
    break
  end
  local count, info = 0, redis.call('HGET', prefix .. 'i:' .. channel, user) or 'null'
  for number in string.gmatch(redis.call('HGET', prefix .. 'p:' .. channel, user) or '', '=(%d+)') do count = count + number end
  size = size - #user - #info - 48
  answer[#answer + 1] = user
  answer[#answer + 1] = info
  answer[#answer + 1] = count
end
return answer
"""

_BEAT = """
local open, leases, nodes, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local gen, node, lease, info, to, probe, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if closed(open, gen) then return {'closed'} end
local now = ms()
local had = redis.call('ZSCORE', leases, node)
redis.call('ZADD', leases, whole(now + lease), node)
redis.call('HSET', nodes, node, info)
redis.call('PUBLISH', to, 'probe ' .. probe)
-- If the server's clock was set back, what was due by it before is due that much earlier: else the dead would live on, and who
-- has left would not, for as long.
local clock = prefix .. 'clock'
local before = tonumber(redis.call('GET', clock) or now)
redis.call('SET', clock, whole(now))
if before - now > 1000 then
  for _, key in ipairs({leases, prefix .. 'lv'}) do
    local due = redis.call('ZRANGEBYSCORE', key, whole(before - lease), '+inf', 'WITHSCORES')
    for n = 1, #due, 2 do
      if due[n] ~= node then redis.call('ZADD', key, whole(due[n + 1] - before + now), due[n]) end
    end
  end
end
if redis.call('ZCARD', names) > 0 then
  local looked, gone = redis.call('ZRANDMEMBER', names, 50), {}
  for _, channel in ipairs(looked) do
    if redis.call('EXISTS', prefix .. 'm:' .. channel) == 0 then gone[#gone + 1] = channel end
  end
  if #gone > 0 then redis.call('ZREM', names, unpack(gone)) end
end
local answer = {'ok', had and 1 or 0}
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now), 'LIMIT', 0, 10)) do answer[#answer + 1] = dead end
return answer
"""

# Undo a part of what a node that has gone has left behind.
_BURY = """
local leases, nodes, mine, lv = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, to, node, delay, own = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = ms()
local lease = redis.call('ZSCORE', leases, node)
if own ~= '1' and lease and tonumber(lease) > now then return {'alive'} end
local some = redis.call('SRANDMEMBER', mine, 200)
for _, each in ipairs(some) do
  local channel, user = string.match(each, '^(%S+) (.*)$')
  if channel then
    present(prefix, to, node, channel, user, '0', '', now + delay)
  else
    counted(prefix, node, each, 0)
    redis.call('SREM', mine, each)
  end
end
if #some < 200 then
  redis.call('ZREM', leases, node)
  redis.call('HDEL', nodes, node)
  return {'done'}
end
return {'more'}
"""

_TELL = """
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(ms()), '+inf')
"""

_NODES = """
local found = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(ms()), '+inf')) do
  found[#found + 1] = redis.call('HGET', KEYS[2], node)
end
return found
"""

_CLAIM = """
if closed(KEYS[1], ARGV[1]) then return {'closed'} end
local by = redis.call('GET', KEYS[2])
if by then return {'ok', by == ARGV[2] and 1 or 0} end
if tonumber(ARGV[3]) > ms() then redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3]) end
return {'ok', 1}
"""

_REVOKE = """
local now = ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
if tonumber(ARGV[1]) > now then redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) end
return {'ok'}
"""

_REVOKED = """
return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', 0, 1000)
"""


class Script:
    """One script.

    Attributes:
        text: its source.
        sha: by which the server knows it.
    """

    __slots__ = ("sha", "text")

    def __init__(self, *parts: str) -> None:
        self.text = "".join(parts)
        self.sha = sha1(self.text.encode("ascii")).hexdigest().encode("ascii")


def nameOf(script: Script) -> str:
    """Return what this module calls a script."""
    return next((name.lower() for name, each in globals().items() if each is script), "script")


HELLO = Script(f"local LONGEST = {LONGEST} ", _TIME, _HELLO)
OPEN = Script(_TIME, _OPEN)
PUBLISH = Script(
    f"local REMEMBERED, REMEMBERED_LEAST = {REMEMBERED}, {REMEMBERED_LEAST}",
    # Most messages do without these: to make the functions each time would cost more than to call them.
    " local function whole(n) return n < 1e14 and n .. '' or string.format('%.0f', n) end",
    f" local function history() {_TIME} {_HISTORY} return head, tooLarge, tidy end",
    f" local function epochs() {_TIME} {_COUNTS} {_EPOCH} return epoch, create, bounded end",
    f" local function instances() {_INSTANCES} return numbered, without, recent end",
    _PUBLISH,
)
REPAIR = Script(_NOBODY, _TIME, _STATE, _INSTANCES, _COUNTS, _EPOCH, _HISTORY, _APPEND, _REPAIR)
SETTLE = Script(_NOBODY, _GATE, _TIME, _STATE, _INSTANCES, _COUNTS, _EPOCH, _HISTORY, _APPEND, _SETTLE)
WATCH = Script(_NOBODY, _GATE, _TIME, _STATE, _COUNTS, _EPOCH, _WATCH)
TOPS = Script(_TIME, _STATE, _TOPS)
SINCE = Script(_GATE, _TIME, _STATE, _HISTORY, _SINCE)
FORGET = Script(_GATE, _TIME, _STATE, _HISTORY, _FORGET)
DESCRIBE = Script(_TIME, _STATE, _HISTORY, _DESCRIBE, _DESCRIBE_ONE)
LIST = Script(_TIME, _STATE, _HISTORY, _DESCRIBE, _LIST)
COUNT = Script(_TIME, _STATE, _COUNTED, _COUNT)
ENTER = Script(_TIME, _PRESENCE, _ENTER)
SWEEP = Script(_TIME, _SWEEP)
MEMBERS = Script(_COUNTS, _MEMBERS)
BEAT = Script(_GATE, _TIME, _BEAT)
BURY = Script(_TIME, _STATE, _COUNTED, _PRESENCE, _BURY)
TELL = Script(_TIME, _TELL)
NODES = Script(_TIME, _NODES)
CLAIM = Script(_GATE, _TIME, _CLAIM)
REVOKE = Script(_TIME, _REVOKE)
REVOKED = Script(_REVOKED)

SCRIPTS: tuple[Script, ...] = (
    HELLO,
    OPEN,
    PUBLISH,
    REPAIR,
    SETTLE,
    WATCH,
    TOPS,
    SINCE,
    FORGET,
    DESCRIBE,
    LIST,
    COUNT,
    ENTER,
    SWEEP,
    MEMBERS,
    BEAT,
    BURY,
    TELL,
    NODES,
    CLAIM,
    REVOKE,
    REVOKED,
)
