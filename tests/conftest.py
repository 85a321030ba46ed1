"""Eight CPU devices, so that pmap and sharding are tested on any machine."""

import hypothesis
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# The first example of a law pays for compilation, so no deadline.
hypothesis.settings.register_profile("jax", deadline=None, max_examples=30)
hypothesis.settings.load_profile("jax")
