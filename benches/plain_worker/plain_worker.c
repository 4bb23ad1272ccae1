/*-------------------------------------------------------------------------
 *
 * plain_worker.c
 *	  Background workers that count relations the plain way.
 *
 * This is how one counted when background workers were new, in 2013: every
 * naptime a transaction, and in it the query, parsed, planned and executed.
 * What that costs is what count_relations saves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

#define QUERY "SELECT count(*) FROM pg_class"

static int	naptime = 1000;
static int	workers = 1;

void		_PG_init(void);
PGDLLEXPORT void plain_worker_main(Datum main_arg);

static void count_relations(void);

void
_PG_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress)
		return;

	DefineCustomIntVariable("plain_worker.naptime",
							"Sets the time from one count to the next.",
							NULL,
							&naptime,
							1000, 10, 24 * 60 * 60 * 1000,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("plain_worker.workers",
							"Sets how many workers count, all of them the same.",
							NULL,
							&workers,
							1, 0, 1000,
							PGC_POSTMASTER,
							0,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("plain_worker");

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "plain_worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "plain_worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "plain_worker", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "plain_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	for (int i = 0; i < workers; i++)
		RegisterBackgroundWorker(&worker);
}

void
plain_worker_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	BackgroundWorkerInitializeConnection("postgres", NULL, 0);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		count_relations();

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 naptime,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
count_relations(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, QUERY);

	if (SPI_execute(QUERY, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count relations");

	if (SPI_processed > 0)
	{
		bool		isnull;
		int64		count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
														SPI_tuptable->tupdesc,
														1, &isnull));

		ereport(LOG,
				(errmsg_internal("Currently " INT64_FORMAT " relations in database \"postgres\"",
								 count)));
	}

	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}
