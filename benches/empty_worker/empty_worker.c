/*-------------------------------------------------------------------------
 *
 * empty_worker.c
 *	  A background worker that does nothing, at regular intervals.
 *
 * It wakes up, writes a line to the server's log and sleeps again: the least
 * that a worker can do which reports something every naptime.  What this one
 * costs is the limit that count_relations is measured against.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

/* As long as count_relations' line in a new database. */
#define LINE "Currently the log gets a line from empty_worker"

static int	naptime = 1000;
static bool in_transaction = false;

void		_PG_init(void);
PGDLLEXPORT void empty_worker_main(Datum main_arg);

void
_PG_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress)
		return;

	DefineCustomIntVariable("empty_worker.naptime",
							"Sets the time from one line to the next.",
							NULL,
							&naptime,
							1000, 10, 24 * 60 * 60 * 1000,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("empty_worker.in_transaction",
							 "Writes each line in a transaction, which does nothing else.",
							 NULL,
							 &in_transaction,
							 false,
							 PGC_SIGHUP,
							 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("empty_worker");

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "empty_worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "empty_worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "empty_worker", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "empty_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

void
empty_worker_main(Datum main_arg)
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

		if (in_transaction)
			StartTransactionCommand();
		ereport(LOG, (errmsg_internal(LINE)));
		if (in_transaction)
			CommitTransactionCommand();

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 naptime,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
