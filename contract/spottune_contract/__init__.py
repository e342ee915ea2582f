"""The agreement between operator, trainer, agent and command line.

Everything that two programs must understand alike is declared here once: the environment of a trainer pod (`env`), its exit
codes and what they mean (`exitcodes`), the object layout (`layout`), the records of the checkpoint log (`records`), what a
trainer reports (`progress`), the parts of a job that the trainer reads (`runspec`), the labels (`labels`) and the version
(`version`). Only pydantic and the standard library may be imported here.
"""
