-- What SQL sees of the registry. The functions are in src/views.rs. A datname is null once the
-- database is dropped, until its row is freed.

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
    WHERE c.datname IS NOT NULL;

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
    'ticks since stats_since that had to count all relations';
COMMENT ON COLUMN @extschema@.relation_counts.last_count_ms IS
    'how long the last count of all relations took, in milliseconds';
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

CREATE FUNCTION @extschema@.relation_counts_by_kind(
    OUT datid oid,
    OUT datname text,
    OUT relkind "char",
    OUT relpersistence "char",
    OUT relispartition boolean,
    OUT relations bigint,
    OUT counted_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'relation_counts_by_kind_wrapper';

COMMENT ON FUNCTION @extschema@.relation_counts_by_kind() IS
    'the rows of the view relation_counts_by_kind';

CREATE VIEW @extschema@.relation_counts_by_kind AS
    SELECT c.datid, c.datname::pg_catalog.name AS datname,
           c.relkind, c.relpersistence, c.relispartition, c.relations, c.counted_at
    FROM @extschema@.relation_counts_by_kind() AS c
    WHERE c.datname IS NOT NULL;

COMMENT ON VIEW @extschema@.relation_counts_by_kind IS
    'the relations of every database that is being counted, by kind, as of the latest census';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.datid IS
    'oid of the database';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.datname IS
    'name of the database';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.relkind IS
    'kind of relation, as in pg_class';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.relpersistence IS
    'p for permanent, u for unlogged, t for temporary, as in pg_class';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.relispartition IS
    'whether they are partitions, as in pg_class';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.relations IS
    'number of such relations';
COMMENT ON COLUMN @extschema@.relation_counts_by_kind.counted_at IS
    'when the census was taken';

CREATE FUNCTION @extschema@.relation_counts_by_schema(
    OUT datid oid,
    OUT datname text,
    OUT nspname text,
    OUT schemas bigint,
    OUT relations bigint,
    OUT counted_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'relation_counts_by_schema_wrapper';

COMMENT ON FUNCTION @extschema@.relation_counts_by_schema() IS
    'the rows of the view relation_counts_by_schema';

CREATE VIEW @extschema@.relation_counts_by_schema AS
    SELECT c.datid, c.datname::pg_catalog.name AS datname,
           c.nspname::pg_catalog.name AS nspname, c.schemas, c.relations, c.counted_at
    FROM @extschema@.relation_counts_by_schema() AS c
    WHERE c.datname IS NOT NULL;

COMMENT ON VIEW @extschema@.relation_counts_by_schema IS
    'the relations of every database that is being counted, by schema, as of the latest census';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.datid IS
    'oid of the database';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.datname IS
    'name of the database';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.nspname IS
    'name of one of the ten largest schemas; pg_temp for all sessions'' temporary ones; null for the rest';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.schemas IS
    'number of schemas with relations that the row is about';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.relations IS
    'number of relations in there';
COMMENT ON COLUMN @extschema@.relation_counts_by_schema.counted_at IS
    'when the census was taken';

CREATE FUNCTION @extschema@.relation_catalogs(
    OUT datid oid,
    OUT datname text,
    OUT relname text,
    OUT live_rows bigint,
    OUT dead_rows bigint,
    OUT rows_inserted bigint,
    OUT rows_deleted bigint,
    OUT total_bytes bigint,
    OUT checked_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'relation_catalogs_wrapper';

COMMENT ON FUNCTION @extschema@.relation_catalogs() IS
    'the rows of the view relation_catalogs';

CREATE VIEW @extschema@.relation_catalogs AS
    SELECT c.datid, c.datname::pg_catalog.name AS datname,
           c.relname::pg_catalog.name AS relname, c.live_rows, c.dead_rows,
           c.rows_inserted, c.rows_deleted, c.total_bytes, c.checked_at
    FROM @extschema@.relation_catalogs() AS c
    WHERE c.datname IS NOT NULL;

COMMENT ON VIEW @extschema@.relation_catalogs IS
    'the catalogs that grow with relations, of every database that is being counted, as of the latest census';
COMMENT ON COLUMN @extschema@.relation_catalogs.datid IS
    'oid of the database';
COMMENT ON COLUMN @extschema@.relation_catalogs.datname IS
    'name of the database';
COMMENT ON COLUMN @extschema@.relation_catalogs.relname IS
    'name of the catalog';
COMMENT ON COLUMN @extschema@.relation_catalogs.live_rows IS
    'estimated number of live rows, from the server''s statistics; null on a standby';
COMMENT ON COLUMN @extschema@.relation_catalogs.dead_rows IS
    'estimated number of dead rows, from the server''s statistics; null on a standby';
COMMENT ON COLUMN @extschema@.relation_catalogs.rows_inserted IS
    'rows inserted since the server''s statistics were reset; null on a standby';
COMMENT ON COLUMN @extschema@.relation_catalogs.rows_deleted IS
    'rows deleted since the server''s statistics were reset; null on a standby';
COMMENT ON COLUMN @extschema@.relation_catalogs.total_bytes IS
    'size on disk, with indexes and TOAST';
COMMENT ON COLUMN @extschema@.relation_catalogs.checked_at IS
    'when the census was taken';

CREATE FUNCTION @extschema@.relation_counts_census(datname name DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'relation_counts_census_wrapper';

COMMENT ON FUNCTION @extschema@.relation_counts_census(name) IS
    'asks for a census now, of one database or of all; does not wait for it';

-- pg_monitor reads, superusers do everything, others need a GRANT.
REVOKE ALL ON FUNCTION @extschema@.relation_counts() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_counts_reset(name) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_counts_by_kind() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_counts_by_schema() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_catalogs() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.relation_counts_census(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.relation_counts() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.relation_counts_by_kind() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.relation_counts_by_schema() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.relation_catalogs() TO pg_monitor;
GRANT SELECT ON @extschema@.relation_counts TO pg_monitor;
GRANT SELECT ON @extschema@.relation_counts_by_kind TO pg_monitor;
GRANT SELECT ON @extschema@.relation_counts_by_schema TO pg_monitor;
GRANT SELECT ON @extschema@.relation_catalogs TO pg_monitor;
