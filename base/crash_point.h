/*
 * Named points in the protocol at which the tests kill or freeze a process.
 *
 * In a build with CRASH_POINTS, DOPPEL_CRASH=name:N kills the process with SIGKILL at the Nth passing
 * of `name`, and DOPPEL_FREEZE=name:N stops it there with SIGSTOP. Otherwise a point is nothing at
 * all. The list of the points is in crash_point.c; the kill sweep goes through it.
 */
#pragma once

#ifdef CRASH_POINTS
void crash_point_passed(const char *name);
#define CRASH_POINT(name) crash_point_passed(name)
#else
#define CRASH_POINT(name) ((void)0)
#endif
