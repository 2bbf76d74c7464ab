"""Writing to Redis under a number: scripts that refuse who was replaced, in one step.

A process may freeze between a check and its write, so the check is made by Redis itself: each
script compares the number it carries with the one stored beside what it writes. Scripts need
Redis 6.2. They name their keys in their arguments and touch several at once, so they do not
work on a Redis Cluster; a primary with replicas (Sentinel) is what they are made for.

Texts in `owner/<id>` and `leader/<duty>` begin with the number (see `keys`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Argument = str | bytes | int

_NUMBER: Final = """
local function number(text)
  return tonumber(string.match(text, '^%d+') or '0')
end
"""

_FENCE: Final = (
    _NUMBER
    + """
local function writer(text)
  return string.match(text, '([^ :]*):%S*$')
end

-- Whether the writer of `record` may write; what was stored if that is another record. Of two
-- writers with one number (etcd lost data and gave it twice) it is who claimed the module last.
local function admitted(id, record)
  local key = 'owner/' .. id
  local stored = redis.call('GET', key)
  if stored == record then return true, nil end
  if stored then
    local theirs, ours = number(stored), number(record)
    if theirs > ours then return false, stored end
    local who = writer(stored)
    if theirs == ours and who and who ~= writer(record) then return false, stored end
  end
  redis.call('SET', key, record)
  return true, stored or ''
end

local function put(status, key, value)
  if value == 'null' then
    redis.call('HDEL', status, key)
  else
    redis.call('HSET', status, key, value)
  end
  redis.call('PUBLISH', status .. '/' .. key, value)
end
"""
)

_LEADER: Final = (
    _NUMBER
    + """
-- ARGV[1] is the duty, ARGV[2] the leader's record: a lower revision is refused, a higher kept.
local held = redis.call('GET', 'leader/' .. ARGV[1])
if held ~= ARGV[2] then
  if held and number(held) >= number(ARGV[2]) then return {held} end
  redis.call('SET', 'leader/' .. ARGV[1], ARGV[2])
end
"""
)


class Script:
    """One script, known to Redis by its digest once it was sent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: Redis, *arguments: Argument) -> object:
        """Run it; what it returned. Raises redis errors."""
        try:
            return await redis.evalsha(self._digest, 0, *arguments)
        except NoScriptError:  # a server that was restarted, or another one
            return await redis.eval(self._text, 0, *arguments)


CLAIM: Final = Script(
    _NUMBER
    + """
-- Raise `owner/<id>` and read the state. ARGV: id, number, version, life of each module.
-- The version that is stored stays: it tells who set the state that is there.
local found = {}
for at = 1, #ARGV, 4 do
  local id, mine, version, life = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local stored = redis.call('GET', 'owner/' .. id)
  if stored and number(stored) > number(mine) then
    found[#found + 1] = {0, stored, {}}
  else
    local before = stored and string.match(stored, '^%d+ (%S+)') or '-'
    if before == '-' then before = version end
    redis.call('SET', 'owner/' .. id, mine .. ' ' .. before .. ' ' .. life)
    found[#found + 1] = {1, stored or '', redis.call('HGETALL', 'status/' .. id)}
  end
end
return found
"""
)

CHANGES: Final = Script(
    _FENCE
    + """
-- ARGV: how many modules, how many changes; id and record of each module; position of the
-- module, key and value of each change; channel and text of what else is to be published.
-- Gives the positions of those refused, and position and old record of those stored anew.
local modules, changes, at = tonumber(ARGV[1]), tonumber(ARGV[2]), 3
local open, refused, anew = {}, {}, {}
for i = 1, modules do
  local may, stored = admitted(ARGV[at], ARGV[at + 1])
  if may then
    open[tostring(i)] = 'status/' .. ARGV[at]
    if stored then anew[#anew + 1] = {i, stored} end
  else
    refused[#refused + 1] = i
  end
  at = at + 2
end
for _ = 1, changes do
  local status = open[ARGV[at]]
  if status then put(status, ARGV[at + 1], ARGV[at + 2]) end
  at = at + 3
end
for i = at, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return {refused, anew}
"""
)

WHOLE: Final = Script(
    _FENCE
    + """
-- Make Redis hold exactly this of some modules, publishing what differed. ARGV of each: id,
-- record, interface ('' leaves it), how many values; key and value of each. Gives the positions
-- of those refused.
local at, turn, refused = 1, 0, {}
while at <= #ARGV do
  turn = turn + 1
  local id, record, interface, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  if admitted(id, record) then
    local status, present = 'status/' .. id, {}
    local found = redis.call('HGETALL', status)
    for i = 1, #found, 2 do present[found[i]] = found[i + 1] end
    for i = at, at + 2 * count - 1, 2 do
      local key, value = ARGV[i], ARGV[i + 1]
      if present[key] ~= value then put(status, key, value) end
      present[key] = nil
    end
    for key in pairs(present) do put(status, key, 'null') end
    if interface ~= '' and redis.call('GET', 'interface/' .. id) ~= interface then
      redis.call('SET', 'interface/' .. id, interface)
    end
  else
    refused[#refused + 1] = turn
  end
  at = at + 2 * count
end
return refused
"""
)

REMOVE: Final = Script(
    _NUMBER
    + """
-- Nothing of a module stays. ARGV: id, number. Gives 1, or 0 when it is another's.
local id = ARGV[1]
local stored = redis.call('GET', 'owner/' .. id)
if stored and number(stored) > number(ARGV[2]) then return 0 end
local keys = redis.call('HKEYS', 'status/' .. id)
redis.call('DEL', 'status/' .. id, 'interface/' .. id, 'owner/' .. id)
for _, key in ipairs(keys) do redis.call('PUBLISH', 'status/' .. id .. '/' .. key, 'null') end
return 1
"""
)

TABLE: Final = Script(
    _NUMBER
    + """
-- The lookup table of a system. ARGV: system, number, 1 if the system is gone, place and module
-- of each entry. Gives 1 when it differed and was announced, 0 when not, -1 when it is another's.
local fence, hash = 'owner/' .. ARGV[1], 'system/' .. ARGV[1]
local stored = redis.call('GET', fence)
if stored and number(stored) > number(ARGV[2]) then return -1 end
if ARGV[3] == '1' then
  redis.call('DEL', fence)
elseif stored ~= ARGV[2] then
  redis.call('SET', fence, ARGV[2])
end
local found, present = redis.call('HGETALL', hash), {}
for i = 1, #found, 2 do present[found[i]] = found[i + 1] end
local same = #found == #ARGV - 3
for i = 4, #ARGV, 2 do same = same and present[ARGV[i]] == ARGV[i + 1] end
if same then return 0 end
redis.call('DEL', hash)
for i = 4, #ARGV, 2 do redis.call('HSET', hash, ARGV[i], ARGV[i + 1]) end
redis.call('PUBLISH', 'lookup-change', ARGV[1])
return 1
"""
)

# -- of leaders: ARGV[1] duty, ARGV[2] record; refused with the record of the other leader --------

LEAD: Final = Script(_LEADER + "return {}")

SUCCEED: Final = Script(
    """
-- Take the place of a record of another history of etcd. ARGV: duty, record, what is stored.
if redis.call('GET', 'leader/' .. ARGV[1]) ~= ARGV[3] then return 0 end
redis.call('SET', 'leader/' .. ARGV[1], ARGV[2])
return 1
"""
)

SWEEP: Final = Script(
    _LEADER
    + """
-- Remove what is left of records that are gone. ARGV[3] on: id and the text of `owner/<id>` when
-- it was looked at ('' for none): one that was written since is left alone. Gives how many.
local swept = 0
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if (redis.call('GET', 'owner/' .. id) or '') == ARGV[at + 1] then
    local keys = redis.call('HKEYS', 'status/' .. id)
    local gone = redis.call('DEL', 'status/' .. id, 'interface/' .. id, 'owner/' .. id)
    for _, key in ipairs(keys) do redis.call('PUBLISH', 'status/' .. id .. '/' .. key, 'null') end
    if redis.call('DEL', 'system/' .. id) == 1 then
      gone = gone + 1
      redis.call('PUBLISH', 'lookup-change', id)
    end
    if gone > 0 then swept = swept + 1 end
  end
end
return {false, swept}
"""
)

DISCONNECT: Final = Script(
    _LEADER
    + """
-- Modules nobody runs are not connected. ARGV[3] the leader's view number; ARGV[4] on: id and
-- the text of `owner/<id>` when it was looked at. Whoever claimed the module since, or did so
-- under a later view, is left alone. The mark of the life becomes '-': should the writer live
-- after all, it finds that somebody else wrote. Gives how many.
local done = 0
for at = 4, #ARGV, 2 do
  local id, seen = ARGV[at], ARGV[at + 1]
  local key, status = 'owner/' .. id, 'status/' .. id
  local stored = redis.call('GET', key) or ''
  if stored == seen and number(stored) <= number(ARGV[3])
      and redis.call('HGET', status, 'connected') == 'true' then
    local version = string.match(stored, '^%d+ (%S+)') or '-'
    redis.call('SET', key, string.format('%d', number(stored)) .. ' ' .. version .. ' -')
    redis.call('HSET', status, 'connected', 'false')
    redis.call('PUBLISH', status .. '/connected', 'false')
    done = done + 1
  end
end
return {false, done}
"""
)
