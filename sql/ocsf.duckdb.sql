-- SPDX-License-Identifier: Apache-2.0
-- Connections as objects of OCSF 1.3, class 4001 (Network Activity), for lakes that take nothing
-- else: an export, not for searching. Needs the views of tcpconnect.duckdb.sql.

CREATE OR REPLACE TEMP VIEW ocsf AS
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
    epoch_us(coalesce(ended, decided, started)) // 1000 AS time,
    epoch_us(started) // 1000 AS start_time,
    epoch_us(ended) // 1000 AS end_time,
    duration_us // 1000 AS duration,
    {
        version: '1.3.0', product: {
            name: 'tcpconnect', vendor_name: 'tcpconnect'}} AS metadata,
    {
        hostname: host, type_id: 0} AS device,
    {
        ip: CASE WHEN role = 'server' THEN daddr ELSE saddr END,
        port: CASE WHEN role = 'server' THEN dport ELSE lport END} AS src_endpoint,
    {
        ip: CASE WHEN role = 'server' THEN saddr ELSE daddr END,
        port: CASE WHEN role = 'server' THEN lport ELSE dport END, hostname: query} AS dst_endpoint,
    {
        uid: conn_id, protocol_num: 6, protocol_name: 'tcp', protocol_ver_id: ip,
        direction_id: CASE role WHEN 'server' THEN 1 WHEN 'client' THEN 2 ELSE 0 END} AS connection_info,
    {
        bytes_in: rx_bytes, bytes_out: tx_bytes} AS traffic,
    {
        process: {
            pid: pid, name: comm, uid: process_id, cmd_line: args,
            created_time: epoch_us(start) // 1000,
            file: {
                path: exe, name: regexp_extract(exe, '[^/]*$'), type_id: 1},
            user: {
                uid: uid::VARCHAR, name: "user"},
            container: {
                uid: container_id, name: container_name,
                image: {
                    name: container_image}}}} AS actor,
    {
        boot_id: boot_id, latency_us: latency_us, retransmits: retransmits, netns: netns,
        close_by: close_by} AS unmapped
FROM activities;

COPY (SELECT * FROM ocsf) TO 'network_activity.json' (FORMAT json);
