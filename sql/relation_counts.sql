-- What SQL sees of the registry. The functions are in src/views.rs.

CREATE FUNCTION @extschema@.relation_counts(
    OUT datid oid,
    OUT datname text,
    OUT relations bigint,
    OUT counted_at timestamptz,
    OUT changed_at timestamptz,
    OUT min_relations bigint,
    OUT max_relations bigint,
    OUT max_at timestamptz,
    OUT ticks bigint,
    OUT recounts bigint,
    OUT last_count_ms double precision,
    OUT stats_since timestamptz,
    OUT pid integer)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'relation_counts_wrapper';

COMMENT ON FUNCTION @extschema@.relation_counts() IS
    'the rows of the view relation_counts';

CREATE VIEW @extschema@.relation_counts AS
    SELECT c.datid, c.datname::pg_catalog.name AS datname, c.relations, c.counted_at, c.changed_at,
           c.min_relations, c.max_relations, c.max_at, c.ticks, c.recounts,
           c.last_count_ms, c.stats_since, c.pid
    FROM @extschema@.relation_counts() AS c
    WHERE c.datname IS NOT NULL; -- null once the database is dropped, until its row is freed

COMMENT ON VIEW @extschema@.relation_counts IS
    'the latest count of relations of every database that is being counted';
COMMENT ON COLUMN @extschema@.relation_counts.datid IS
    'oid of the database';
COMMENT ON COLUMN @extschema@.relation_counts.datname IS
    'name of the database';
COMMENT ON COLUMN @extschema@.relation_counts.relations IS
    'number of relations: rows of the database''s pg_class';
COMMENT ON COLUMN @extschema@.relation_counts.counted_at IS
    'the latest tick, which confirmed the number';
COMMENT ON COLUMN @extschema@.relation_counts.changed_at IS
    'when the number last became different, or was first counted';
COMMENT ON COLUMN @extschema@.relation_counts.min_relations IS
    'smallest number since stats_since';
COMMENT ON COLUMN @extschema@.relation_counts.max_relations IS
    'largest number since stats_since';
COMMENT ON COLUMN @extschema@.relation_counts.max_at IS
    'when the largest number was counted first';
COMMENT ON COLUMN @extschema@.relation_counts.ticks IS
    'ticks since stats_since';
COMMENT ON COLUMN @extschema@.relation_counts.recounts IS
    'ticks since stats_since that had to run the query';
COMMENT ON COLUMN @extschema@.relation_counts.last_count_ms IS
    'how long the query took the last time, in milliseconds';
COMMENT ON COLUMN @extschema@.relation_counts.stats_since IS
    'when the database was first counted, or the last relation_counts_reset()';
COMMENT ON COLUMN @extschema@.relation_counts.pid IS
    'process ID of the worker that is in the database; null if there is none';

CREATE FUNCTION @extschema@.relation_counts_reset(datname name DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'relation_counts_reset_wrapper';

COMMENT ON FUNCTION @extschema@.relation_counts_reset(name) IS
    'restarts min_relations, max_relations, ticks, recounts and stats_since, for one database or all';

-- pg_monitor reads, superusers do everything, others need a GRANT.
REVOKE ALL ON FUNCTION @extschema@.relation_counts() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_counts_reset(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.relation_counts() TO pg_monitor;
GRANT SELECT ON @extschema@.relation_counts TO pg_monitor;
