/*-------------------------------------------------------------------------
 *
 * singer.c
 *	  A library with every hook that a query can reach.
 *
 * As long as singer.sing is not empty, each hook says in the server's log that
 * it was called, once a process.  The one for parse analysis also runs the
 * setting's value as a query, as the current user, which is what makes a
 * library like this dangerous: anybody may set it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_state.h"
#endif
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/geqo.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "rewrite/rowsecurity.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static char *song = NULL;

/* Says once that the hook was called.  Returns whether there is a song. */
static bool
sing(const char *hook, bool *sung)
{
	if (song == NULL || song[0] == '\0')
		return false;
	if (!*sung)
	{
		/* No CONTEXT lines. */
		ErrorContextCallback *context = error_context_stack;

		error_context_stack = NULL;
		ereport(LOG,
				(errmsg_internal("singing in %s", hook),
				 errhidestmt(true)));
		error_context_stack = context;
		*sung = true;
	}
	return true;
}

#define SING(hook) \
	do { \
		static bool sung = false; \
		(void) sing(#hook, &sung); \
	} while (0)

/* --- Parse analysis --- */

static void
on_post_parse_analyze(ParseState *pstate, Query *query,
#if PG_VERSION_NUM >= 190000
					  const JumbleState *jstate
#else
					  JumbleState *jstate
#endif
)
{
	static bool sung = false;
	static bool running = false;

	if (!sing("post_parse_analyze_hook", &sung) || running)
		return;
	/* A utility command may be one that can't have this in front. */
	if (query->commandType == CMD_UTILITY)
		return;

	running = true;
	PG_TRY();
	{
		bool		pushed = !ActiveSnapshotSet();

		if (pushed)
			PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		SPI_execute(song, false, 0);
		SPI_finish();
		if (pushed)
			PopActiveSnapshot();
	}
	PG_FINALLY();
	{
		running = false;
	}
	PG_END_TRY();
}

/* --- Rewriting --- */

static List *
on_row_security_permissive(CmdType cmdtype, Relation relation)
{
	SING(row_security_policy_hook_permissive);
	return NIL;
}

static List *
on_row_security_restrictive(CmdType cmdtype, Relation relation)
{
	SING(row_security_policy_hook_restrictive);
	return NIL;
}

/* --- Planning --- */

#if PG_VERSION_NUM >= 190000
static PlannedStmt *
on_planner(Query *parse, const char *query_string, int cursorOptions,
		   ParamListInfo boundParams, ExplainState *es)
{
	SING(planner_hook);
	return standard_planner(parse, query_string, cursorOptions, boundParams, es);
}

static void
on_planner_setup(PlannerGlobal *glob, Query *parse, const char *query_string,
				 int cursorOptions, double *tuple_fraction, ExplainState *es)
{
	SING(planner_setup_hook);
}

static void
on_planner_shutdown(PlannerGlobal *glob, Query *parse,
					const char *query_string, PlannedStmt *pstmt)
{
	SING(planner_shutdown_hook);
}

static void
on_build_simple_rel(PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte)
{
	SING(build_simple_rel_hook);
}

static void
on_joinrel_setup(PlannerInfo *root, RelOptInfo *joinrel, RelOptInfo *outer_rel,
				 RelOptInfo *inner_rel, SpecialJoinInfo *sjinfo,
				 List *restrictlist)
{
	SING(joinrel_setup_hook);
}

static void
on_join_path_setup(PlannerInfo *root, RelOptInfo *joinrel,
				   RelOptInfo *outerrel, RelOptInfo *innerrel,
				   JoinType jointype, JoinPathExtraData *extra)
{
	SING(join_path_setup_hook);
}
#else
static PlannedStmt *
on_planner(Query *parse, const char *query_string, int cursorOptions,
		   ParamListInfo boundParams)
{
	SING(planner_hook);
	return standard_planner(parse, query_string, cursorOptions, boundParams);
}

static void
on_get_relation_info(PlannerInfo *root, Oid relationObjectId, bool inhparent,
					 RelOptInfo *rel)
{
	SING(get_relation_info_hook);
}
#endif

static void
on_create_upper_paths(PlannerInfo *root, UpperRelationKind stage,
					  RelOptInfo *input_rel, RelOptInfo *output_rel,
					  void *extra)
{
	SING(create_upper_paths_hook);
}

static RelOptInfo *
on_join_search(PlannerInfo *root, int levels_needed, List *initial_rels)
{
	SING(join_search_hook);
	if (enable_geqo && levels_needed >= geqo_threshold)
		return geqo(root, levels_needed, initial_rels);
	return standard_join_search(root, levels_needed, initial_rels);
}

static void
on_set_join_pathlist(PlannerInfo *root, RelOptInfo *joinrel,
					 RelOptInfo *outerrel, RelOptInfo *innerrel,
					 JoinType jointype, JoinPathExtraData *extra)
{
	SING(set_join_pathlist_hook);
}

static void
on_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
					RangeTblEntry *rte)
{
	SING(set_rel_pathlist_hook);
}

static bool
on_get_relation_stats(PlannerInfo *root, RangeTblEntry *rte,
					  AttrNumber attnum, VariableStatData *vardata)
{
	SING(get_relation_stats_hook);
	return false;
}

static bool
on_get_index_stats(PlannerInfo *root, Oid indexOid, AttrNumber indexattnum,
				   VariableStatData *vardata)
{
	SING(get_index_stats_hook);
	return false;
}

static int32
on_get_attavgwidth(Oid relid, AttrNumber attnum)
{
	SING(get_attavgwidth_hook);
	return 0;
}

/* --- Execution --- */

#if PG_VERSION_NUM >= 160000
static bool
on_executor_check_perms(List *rangeTable, List *rtePermInfos,
						bool ereport_on_violation)
#else
static bool
on_executor_check_perms(List *rangeTable, bool ereport_on_violation)
#endif
{
	SING(ExecutorCheckPerms_hook);
	return true;
}

static void
on_executor_start(QueryDesc *queryDesc, int eflags)
{
	SING(ExecutorStart_hook);
	standard_ExecutorStart(queryDesc, eflags);
}

#if PG_VERSION_NUM >= 180000
static void
on_executor_run(QueryDesc *queryDesc, ScanDirection direction, uint64 count)
{
	SING(ExecutorRun_hook);
	standard_ExecutorRun(queryDesc, direction, count);
}
#else
static void
on_executor_run(QueryDesc *queryDesc, ScanDirection direction, uint64 count,
				bool execute_once)
{
	SING(ExecutorRun_hook);
	standard_ExecutorRun(queryDesc, direction, count, execute_once);
}
#endif

static void
on_executor_finish(QueryDesc *queryDesc)
{
	SING(ExecutorFinish_hook);
	standard_ExecutorFinish(queryDesc);
}

static void
on_executor_end(QueryDesc *queryDesc)
{
	SING(ExecutorEnd_hook);
	standard_ExecutorEnd(queryDesc);
}

/* --- Function calls --- */

static bool
on_needs_fmgr(Oid fn_oid)
{
	SING(needs_fmgr_hook);
	return true;
}

static void
on_fmgr(FmgrHookEventType event, FmgrInfo *flinfo, Datum *arg)
{
	SING(fmgr_hook);
}

/* --- Objects --- */

static void
on_object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
				 void *arg)
{
	SING(object_access_hook);
}

static void
on_object_access_str(ObjectAccessType access, Oid classId,
					 const char *objectStr, int subId, void *arg)
{
	SING(object_access_hook_str);
}

/* --- Utility commands --- */

static void
on_process_utility(PlannedStmt *pstmt, const char *queryString,
				   bool readOnlyTree, ProcessUtilityContext context,
				   ParamListInfo params, QueryEnvironment *queryEnv,
				   DestReceiver *dest, QueryCompletion *qc)
{
	SING(ProcessUtility_hook);
	standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
}

static void
on_explain_one_query(Query *query, int cursorOptions, IntoClause *into,
					 ExplainState *es, const char *queryString,
					 ParamListInfo params, QueryEnvironment *queryEnv)
{
	SING(ExplainOneQuery_hook);
#if PG_VERSION_NUM >= 170000
	standard_ExplainOneQuery(query, cursorOptions, into, es, queryString,
							 params, queryEnv);
#else
	ExplainOnePlan(pg_plan_query(query, queryString, cursorOptions, params),
				   into, es, queryString, params, queryEnv, NULL, NULL);
#endif
}

static const char *
on_explain_get_index_name(Oid indexId)
{
	SING(explain_get_index_name_hook);
	return NULL;
}

#if PG_VERSION_NUM >= 180000
static void
on_explain_per_node(PlanState *planstate, List *ancestors,
					const char *relationship, const char *plan_name,
					ExplainState *es)
{
	SING(explain_per_node_hook);
}

static void
on_explain_per_plan(PlannedStmt *plannedstmt, IntoClause *into,
					ExplainState *es, const char *queryString,
					ParamListInfo params, QueryEnvironment *queryEnv)
{
	SING(explain_per_plan_hook);
}

static void
on_explain_validate_options(ExplainState *es, List *options,
							ParseState *pstate)
{
	SING(explain_validate_options_hook);
}
#endif

#define LISTEN(hook, function) \
	do { \
		hook = function; \
		if (announce) \
			ereport(LOG, (errmsg_internal("able to sing in %s", #hook))); \
	} while (0)

static void
listen_in(bool announce)
{
	LISTEN(post_parse_analyze_hook, on_post_parse_analyze);
	LISTEN(row_security_policy_hook_permissive, on_row_security_permissive);
	LISTEN(row_security_policy_hook_restrictive, on_row_security_restrictive);
	LISTEN(planner_hook, on_planner);
#if PG_VERSION_NUM >= 190000
	LISTEN(planner_setup_hook, on_planner_setup);
	LISTEN(planner_shutdown_hook, on_planner_shutdown);
	LISTEN(build_simple_rel_hook, on_build_simple_rel);
	LISTEN(joinrel_setup_hook, on_joinrel_setup);
	LISTEN(join_path_setup_hook, on_join_path_setup);
#else
	LISTEN(get_relation_info_hook, on_get_relation_info);
#endif
	LISTEN(create_upper_paths_hook, on_create_upper_paths);
	LISTEN(join_search_hook, on_join_search);
	LISTEN(set_join_pathlist_hook, on_set_join_pathlist);
	LISTEN(set_rel_pathlist_hook, on_set_rel_pathlist);
	LISTEN(get_relation_stats_hook, on_get_relation_stats);
	LISTEN(get_index_stats_hook, on_get_index_stats);
	LISTEN(get_attavgwidth_hook, on_get_attavgwidth);
	LISTEN(ExecutorCheckPerms_hook, on_executor_check_perms);
	LISTEN(ExecutorStart_hook, on_executor_start);
	LISTEN(ExecutorRun_hook, on_executor_run);
	LISTEN(ExecutorFinish_hook, on_executor_finish);
	LISTEN(ExecutorEnd_hook, on_executor_end);
	LISTEN(needs_fmgr_hook, on_needs_fmgr);
	LISTEN(fmgr_hook, on_fmgr);
	LISTEN(object_access_hook, on_object_access);
	LISTEN(object_access_hook_str, on_object_access_str);
	LISTEN(ProcessUtility_hook, on_process_utility);
	LISTEN(ExplainOneQuery_hook, on_explain_one_query);
	LISTEN(explain_get_index_name_hook, on_explain_get_index_name);
#if PG_VERSION_NUM >= 180000
	LISTEN(explain_per_node_hook, on_explain_per_node);
	LISTEN(explain_per_plan_hook, on_explain_per_plan);
	LISTEN(explain_validate_options_hook, on_explain_validate_options);
#endif
}

/* Some libraries set their hooks only when they are turned on. */
static void
assign_sing(const char *newval, void *extra)
{
	if (newval != NULL && newval[0] != '\0')
		listen_in(false);
}

void
_PG_init(void)
{
	DefineCustomStringVariable("singer.sing",
							   "Sets the query that is run before each query.",
							   "An empty string means silence.",
							   &song,
							   "",
							   PGC_USERSET,
							   0,
							   NULL, assign_sing, NULL);
	MarkGUCPrefixReserved("singer");
	listen_in(true);
}
