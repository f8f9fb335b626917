-- SPDX-License-Identifier: Apache-2.0
-- Connections as objects of OCSF 1.3, class 4001 (Network Activity), for lakes that take nothing
-- else: an export, not for searching. Needs the views of tcpconnect.spark.sql.

CREATE OR REPLACE TEMPORARY VIEW ocsf AS
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
    unix_micros(coalesce(ended, decided, started)) div 1000 AS time,
    unix_micros(started) div 1000 AS start_time,
    unix_micros(ended) div 1000 AS end_time,
    duration_us div 1000 AS duration,
    named_struct(
        'version', '1.3.0',
        'product', named_struct(
            'name', 'tcpconnect', 'vendor_name', 'tcpconnect')) AS metadata,
    named_struct(
        'hostname', host, 'type_id', 0) AS device,
    named_struct(
        'ip', CASE WHEN role = 'server' THEN daddr ELSE saddr END,
        'port', CASE WHEN role = 'server' THEN dport ELSE lport END) AS src_endpoint,
    named_struct(
        'ip', CASE WHEN role = 'server' THEN saddr ELSE daddr END,
        'port', CASE WHEN role = 'server' THEN lport ELSE dport END, 'hostname', query) AS dst_endpoint,
    named_struct(
        'uid', conn_id, 'protocol_num', 6, 'protocol_name', 'tcp', 'protocol_ver_id', ip,
        'direction_id', CASE role WHEN 'server' THEN 1 WHEN 'client' THEN 2 ELSE 0 END) AS connection_info,
    named_struct(
        'bytes_in', rx_bytes, 'bytes_out', tx_bytes) AS traffic,
    named_struct(
        'process', named_struct(
            'pid', pid, 'name', comm, 'uid', process_id, 'cmd_line', args,
            'created_time', unix_micros(start) div 1000,
            'file', named_struct(
                'path', exe, 'name', regexp_extract(exe, '[^/]*$', 0), 'type_id', 1),
            'user', named_struct(
                'uid', cast(uid AS string), 'name', user),
            'container', named_struct(
                'uid', container_id, 'name', container_name,
                'image', named_struct(
                    'name', container_image)))) AS actor,
    named_struct(
        'boot_id', boot_id, 'latency_us', latency_us, 'retransmits', retransmits,
        'netns', netns, 'close_by', close_by) AS unmapped
FROM activities;

INSERT OVERWRITE DIRECTORY 'network_activity.json' USING json SELECT * FROM ocsf;
