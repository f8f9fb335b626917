WITH ends AS (
    SELECT replaceRegexpOne(_file, '\\.jsonl$', '') AS host,
        parseDateTime64BestEffort(time, 6, 'UTC') AS at, *
    FROM file('*.jsonl', JSONEachRow,
        'event String, time String, pid UInt32, comm String, ip UInt8,
        saddr String, lport UInt16, daddr String, dport UInt16,
        netns UInt32, conn_id String, community_id String')
)
SELECT c.at AS time, c.host AS client_host, c.comm AS client, c.pid AS client_pid,
    a.host AS server_host, a.comm AS server, a.pid AS server_pid,
    concat(if(c.ip = 6, concat('[', c.daddr, ']'), c.daddr), ':', c.dport) AS address
FROM ends AS c JOIN ends AS a USING (community_id)
WHERE c.event = 'connect' AND a.event = 'accept' AND a.saddr = c.daddr AND a.lport = c.dport
    AND abs(dateDiff('microsecond', c.at, a.at)) <= 10000000
    AND ((a.host = c.host AND a.netns = c.netns)
        OR NOT (c.saddr = c.daddr OR c.daddr LIKE '127.%'))
QUALIFY row_number() OVER (PARTITION BY c.host, c.conn_id, c.at
        ORDER BY a.host <> c.host, abs(dateDiff('microsecond', c.at, a.at))) = 1
    AND row_number() OVER (PARTITION BY a.host, a.conn_id, a.at
        ORDER BY a.host <> c.host, abs(dateDiff('microsecond', c.at, a.at))) = 1
ORDER BY time;
