WITH ends AS (
    SELECT regexp_replace(parse_filename(filename), '\.jsonl$', '') AS host, *
    FROM read_ndjson('*.jsonl', filename = true, columns = {
        event: 'VARCHAR', time: 'TIMESTAMP', pid: 'UINTEGER', comm: 'VARCHAR', ip: 'UTINYINT',
        saddr: 'VARCHAR', lport: 'USMALLINT', daddr: 'VARCHAR', dport: 'USMALLINT',
        netns: 'UINTEGER', conn_id: 'VARCHAR', community_id: 'VARCHAR'})
)
SELECT c.time, c.host AS client_host, c.comm AS client, c.pid AS client_pid,
    a.host AS server_host, a.comm AS server, a.pid AS server_pid,
    concat(if(c.ip = 6, '[' || c.daddr || ']', c.daddr), ':', c.dport) AS address
FROM ends c JOIN ends a USING (community_id)
WHERE c.event = 'connect' AND a.event = 'accept' AND a.saddr = c.daddr AND a.lport = c.dport
    AND abs(date_diff('microsecond', c.time, a.time)) <= 10000000
    AND ((a.host = c.host AND a.netns = c.netns)
        OR NOT (c.saddr = c.daddr OR c.daddr LIKE '127.%'))
QUALIFY row_number() OVER (PARTITION BY c.host, c.conn_id, c.time
        ORDER BY a.host <> c.host, abs(date_diff('microsecond', c.time, a.time))) = 1
    AND row_number() OVER (PARTITION BY a.host, a.conn_id, a.time
        ORDER BY a.host <> c.host, abs(date_diff('microsecond', c.time, a.time))) = 1
ORDER BY c.time;
