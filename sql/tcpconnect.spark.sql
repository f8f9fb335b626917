-- SPDX-License-Identifier: Apache-2.0
-- Recordings of tcpconnect in Spark: spark-sql -i tcpconnect.spark.sql
-- Where they are stands here: a folder, or s3a://... A filter on host or date opens only those.
SET recordings = /var/lib/tcpconnect;
SET spark.sql.session.timeZone = UTC;

CREATE OR REPLACE TEMPORARY VIEW recorded USING parquet
OPTIONS (path '${recordings}', pathGlobFilter '*.parquet');

-- One row for each connection, however its lines were written. role: who this host was in it.
-- outcome is null where nobody knows it, or the row that says it is not here any more. Most rows
-- have their end; only the lines of others are put together, so that a filter on an address, a
-- host or a process still finds its way into the files.
CREATE OR REPLACE TEMPORARY VIEW connections AS
SELECT host, date, boot_id, conn_id,
    CASE event WHEN 'accept' THEN 'server' WHEN 'existing' THEN NULL ELSE 'client' END AS role,
    CASE event WHEN 'accept' THEN 'ok' ELSE result END AS outcome,
    error,
    CASE event WHEN 'result' THEN timestamp_micros(unix_micros(time) - latency_us) WHEN 'existing' THEN NULL
        ELSE time END AS started,
    time AS decided, close_time AS ended,
    ip, saddr, lport, daddr, dport, query, latency_us, duration_us, tx_bytes, rx_bytes,
    retransmits, close_by,
    pid, comm, exe, args, parents, uid, user, container_id, container_name, container_image, pod,
    pod_namespace, cgroup, unit, process_id, start, netns
FROM recorded WHERE close_time IS NOT NULL
UNION ALL
SELECT host, min(date), boot_id, conn_id,
    max(CASE WHEN event = 'accept' OR accepted THEN 'server'
        WHEN event = 'existing' OR partial THEN NULL ELSE 'client' END),
    max(CASE event WHEN 'accept' THEN 'ok' ELSE result END), max(error),
    coalesce(max(CASE WHEN event = 'result' THEN
            timestamp_micros(unix_micros(time) - latency_us)
            WHEN event IN ('accept', 'connect') THEN time END),
        max(CASE event WHEN 'close' THEN timestamp_micros(unix_micros(time) - duration_us) END)),
    max(CASE event WHEN 'close' THEN NULL ELSE time END),
    max(CASE event WHEN 'close' THEN time END),
    ip, saddr, lport, daddr, dport, max(query), max(latency_us), max(duration_us), max(tx_bytes),
    max(rx_bytes), max(retransmits), max(close_by),
    max(pid), max(comm), max(exe), max(args), max(parents), max(uid), max(user), max(container_id),
    max(container_name), max(container_image), max(pod), max(pod_namespace), max(cgroup), max(unit),
    max(process_id), max(start), max(netns)
FROM recorded
WHERE close_time IS NULL AND event IN ('result', 'accept', 'connect', 'existing', 'close')
GROUP BY host, boot_id, conn_id, ip, saddr, lport, daddr, dport,
    CASE WHEN event IN ('accept', 'connect') THEN ts_ns ELSE began_ts_ns END;

-- Which processes had to do with this address, whoever began it?
CREATE OR REPLACE TEMPORARY VIEW who AS
SELECT daddr AS address, host, role, comm, exe, uid, user,
    coalesce(container_name, container_id) AS container,
    min(coalesce(started, decided, ended)) AS first, max(coalesce(ended, decided, started)) AS last,
    count(*) AS connections
FROM connections
GROUP BY daddr, host, role, comm, exe, uid, user,
    coalesce(container_name, container_id);

-- Both ends of each connection between two processes that were recorded. The same addresses and
-- ports come again: a connect goes with the accept nearest to it in time, at most ten seconds away,
-- if that accept has no nearer connect. An end on the same host goes first, where both have the
-- same addresses.
CREATE OR REPLACE TEMPORARY VIEW pairs AS
WITH candidates AS (
    SELECT c.decided AS time, c.date AS date,
        c.host AS client_host, c.comm AS client, c.pid AS client_pid, c.exe AS client_exe,
        coalesce(c.container_name, c.container_id) AS client_container,
        a.host AS server_host, a.comm AS server, a.pid AS server_pid, a.exe AS server_exe,
        coalesce(a.container_name, a.container_id) AS server_container,
        c.ip AS ip, c.daddr AS daddr, c.dport AS dport, c.tx_bytes AS tx_bytes, c.rx_bytes AS rx_bytes,
        row_number() OVER (PARTITION BY c.host, c.boot_id, c.conn_id, c.decided
            ORDER BY a.host <> c.host,
                abs(unix_micros(c.decided) - unix_micros(a.decided)),
                a.host, a.conn_id
        ) AS of_connect,
        row_number() OVER (PARTITION BY a.host, a.boot_id, a.conn_id, a.decided
            ORDER BY a.host <> c.host,
                abs(unix_micros(c.decided) - unix_micros(a.decided)),
                c.host, c.conn_id
        ) AS of_accept
    FROM connections AS c JOIN connections AS a
        ON c.saddr = a.daddr AND c.lport = a.dport AND c.daddr = a.saddr AND c.dport = a.lport
    WHERE c.role = 'client' AND a.role = 'server' AND c.error IS NULL
        AND coalesce(c.outcome, 'ok') = 'ok'
        AND abs(unix_micros(c.decided) - unix_micros(a.decided)) <= 10000000
        AND ((a.host = c.host AND a.netns = c.netns)
            OR NOT (c.saddr = c.daddr OR c.daddr LIKE '127.%'))
)
SELECT time, date, client_host, client, client_pid, client_exe, client_container,
    server_host, server, server_pid, server_exe, server_container,
    concat(CASE ip WHEN 6 THEN concat('[', daddr, ']') ELSE daddr END, ':', cast(dport AS string)) AS address,
    tx_bytes, rx_bytes
FROM candidates WHERE of_connect = 1 AND of_accept = 1;

-- Which program on which host talks to which program on which host?
CREATE OR REPLACE TEMPORARY VIEW edges AS
SELECT client_host, client_exe, client_container, server_host, server_exe, server_container, address,
    count(*) AS connections, sum(tx_bytes) AS tx_bytes, sum(rx_bytes) AS rx_bytes,
    min(time) AS first, max(time) AS last
FROM pairs
GROUP BY client_host, client_exe, client_container, server_host, server_exe, server_container, address;

-- Names of the Elastic Common Schema. They are flat: a filter on a field of a struct reads all.
CREATE OR REPLACE TEMPORARY VIEW ecs AS
SELECT
    coalesce(started, decided, ended) AS `@timestamp`, 'event' AS `event.kind`,
    'network' AS `event.category`, 'connection' AS `event.type`,
    CASE WHEN outcome = 'ok' THEN 'success' WHEN outcome IS NULL AND error IS NULL THEN 'unknown'
        ELSE 'failure' END AS `event.outcome`,
    started AS `event.start`, ended AS `event.end`, duration_us * 1000 AS `event.duration`,
    error AS `error.code`, host AS `host.name`,
    CASE role WHEN 'client' THEN 'egress' WHEN 'server' THEN 'ingress'
        ELSE 'unknown' END AS `network.direction`,
    'tcp' AS `network.transport`, CASE ip WHEN 4 THEN 'ipv4' ELSE 'ipv6' END AS `network.type`,
    saddr AS `source.ip`, lport AS `source.port`, tx_bytes AS `source.bytes`,
    daddr AS `destination.ip`, dport AS `destination.port`, rx_bytes AS `destination.bytes`,
    query AS `destination.domain`, pid AS `process.pid`, comm AS `process.name`,
    exe AS `process.executable`, args AS `process.args`, start AS `process.start`,
    process_id AS `process.entity_id`, cast(uid AS string) AS `user.id`, user AS `user.name`,
    container_id AS `container.id`, container_name AS `container.name`,
    container_image AS `container.image.name`, pod AS `orchestrator.resource.name`,
    pod_namespace AS `orchestrator.namespace`, date AS `date`
FROM connections WHERE role IS NULL OR role = 'client'
UNION ALL
SELECT
    coalesce(started, decided, ended) AS `@timestamp`, 'event' AS `event.kind`,
    'network' AS `event.category`, 'connection' AS `event.type`,
    CASE WHEN outcome = 'ok' THEN 'success' WHEN outcome IS NULL AND error IS NULL THEN 'unknown'
        ELSE 'failure' END AS `event.outcome`,
    started AS `event.start`, ended AS `event.end`, duration_us * 1000 AS `event.duration`,
    error AS `error.code`, host AS `host.name`,
    CASE role WHEN 'client' THEN 'egress' WHEN 'server' THEN 'ingress'
        ELSE 'unknown' END AS `network.direction`,
    'tcp' AS `network.transport`, CASE ip WHEN 4 THEN 'ipv4' ELSE 'ipv6' END AS `network.type`,
    daddr AS `source.ip`, dport AS `source.port`, rx_bytes AS `source.bytes`,
    saddr AS `destination.ip`, lport AS `destination.port`, tx_bytes AS `destination.bytes`,
    NULL AS `destination.domain`, pid AS `process.pid`, comm AS `process.name`,
    exe AS `process.executable`, args AS `process.args`, start AS `process.start`,
    process_id AS `process.entity_id`, cast(uid AS string) AS `user.id`, user AS `user.name`,
    container_id AS `container.id`, container_name AS `container.name`,
    container_image AS `container.image.name`, pod AS `orchestrator.resource.name`,
    pod_namespace AS `orchestrator.namespace`, date AS `date`
FROM connections WHERE role = 'server';
