-- SPDX-License-Identifier: Apache-2.0
-- Connections as objects of OCSF 1.3, class 4001 (Network Activity), for lakes that take nothing
-- else: an export, not for searching. Needs the views of tcpconnect.clickhouse.sql.

CREATE OR REPLACE VIEW ocsf AS
WITH activities AS (SELECT *, CASE
        WHEN outcome = 'refused' THEN 5
        WHEN outcome = 'reset' THEN 3
        WHEN outcome <> 'ok' OR error IS NOT NULL THEN 4
        WHEN ended IS NOT NULL THEN 2
        ELSE 1 END AS activity FROM connections)
SELECT
    activity AS activity_id,
    4 AS category_uid,
    4001 AS class_uid,
    400100 + activity AS type_uid,
    1 AS severity_id,
    CASE WHEN outcome = 'ok' THEN 1 WHEN activity > 2 THEN 2 ELSE 0 END AS status_id,
    intDiv(toUnixTimestamp64Micro(coalesce(ended, decided, started)), 1000) AS time,
    intDiv(toUnixTimestamp64Micro(started), 1000) AS start_time,
    intDiv(toUnixTimestamp64Micro(ended), 1000) AS end_time,
    intDiv(duration_us, 1000) AS duration,
    CAST(tuple('1.3.0', tuple('tcpconnect', 'tcpconnect')),
        'Tuple(version Nullable(String), product Tuple(name Nullable(String),
        vendor_name Nullable(String)))') AS metadata,
    CAST(tuple(host, 0),
        'Tuple(hostname Nullable(String), type_id Nullable(Int32))') AS device,
    CAST(tuple(CASE WHEN role = 'server' THEN daddr ELSE saddr END,
        CASE WHEN role = 'server' THEN dport ELSE lport END),
        'Tuple(ip Nullable(String), port Nullable(Int32))') AS src_endpoint,
    CAST(tuple(CASE WHEN role = 'server' THEN saddr ELSE daddr END,
        CASE WHEN role = 'server' THEN lport ELSE dport END, query),
        'Tuple(ip Nullable(String), port Nullable(Int32), hostname Nullable(String))') AS dst_endpoint,
    CAST(tuple(conn_id, 6, 'tcp', ip,
        CASE role WHEN 'server' THEN 1 WHEN 'client' THEN 2 ELSE 0 END),
        'Tuple(uid Nullable(String), protocol_num Nullable(Int32),
        protocol_name Nullable(String), protocol_ver_id Nullable(Int32),
        direction_id Nullable(Int32))') AS connection_info,
    CAST(tuple(rx_bytes, tx_bytes),
        'Tuple(bytes_in Nullable(Int64), bytes_out Nullable(Int64))') AS traffic,
    CAST(tuple(tuple(pid, comm, process_id, args, intDiv(toUnixTimestamp64Micro(start), 1000),
        tuple(exe, extract(exe, '[^/]*$'), 1), tuple(toString(uid), user), tuple(container_id,
        container_name, tuple(container_image)))),
        'Tuple(process Tuple(pid Nullable(Int64), name Nullable(String), uid Nullable(String),
        cmd_line Nullable(String), created_time Nullable(Int64),
        file Tuple(path Nullable(String), name Nullable(String), type_id Nullable(Int32)),
        user Tuple(uid Nullable(String), name Nullable(String)),
        container Tuple(uid Nullable(String), name Nullable(String),
        image Tuple(name Nullable(String)))))') AS actor,
    CAST(tuple(boot_id, latency_us, retransmits, netns, close_by),
        'Tuple(boot_id Nullable(String), latency_us Nullable(Int64),
        retransmits Nullable(Int64), netns Nullable(Int64), close_by Nullable(String))') AS unmapped
FROM activities;

INSERT INTO FUNCTION file('network_activity.json', JSONEachRow) SELECT * FROM ocsf;
