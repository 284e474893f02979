/*
 * Named points in the protocol at which the tests kill or freeze a process.
 *
 * In a build with CRASH_POINTS, DOPPEL_CRASH=name:N kills the process with SIGKILL at the Nth passing
 * of `name`, and DOPPEL_FREEZE=name:N stops it there with SIGSTOP. With name:N:MS the thread stands
 * at the point for MS milliseconds before, in which the others may do what they should not. Otherwise
 * a point is nothing at all. The points, in the order in which an output meets them:
 *
 *   primary   append.before append.after flush.before flush.after      vCPU thread
 *   backup    receive.checked ack.before ack.after                     receiver
 *             apply.before apply.after                                 vCPU thread
 *   primary   release.before transmit.after                            dataplane thread
 *   resync    resync.page resync.before resync.after     around its entries, on the primary
 *             stage.after commit.before commit.after      the same on a backup or in a replay
 *   clone     clone.before clone.after            around its last message, on the primary
 *   durable   log.copied log.appended log.settled log.ended            log thread of a backup
 *   failover  fence.after arbiter.before arbiter.linked arbiter.won live.before live.after
 */
#pragma once

#ifdef CRASH_POINTS
void crash_point_passed(const char *name);
#define CRASH_POINT(name) crash_point_passed(name)
#else
#define CRASH_POINT(name) ((void)0)
#endif
