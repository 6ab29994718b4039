// Figures with a name, and where there is a history, its line.
export default {
  props: { tiles: Array },
  methods: {
    points(values) {
      const top = Math.max(...values, 1);
      return values.map((v, i) => `${(i / (values.length - 1)) * 100},${28 - (v / top) * 26}`).join(" ");
    },
  },
  template: `
    <dl class="tiles">
      <div v-for="t in tiles" :key="t.label" class="tile" :class="t.tone">
        <dt>{{ t.label }}</dt>
        <dd class="figure">{{ t.value }}<span v-if="t.unit" class="unit">{{ t.unit }}</span></dd>
        <dd v-if="t.sub" class="sub">{{ t.sub }}</dd>
        <dd v-if="t.spark" class="spark" aria-hidden="true">
          <svg viewBox="0 0 100 30" preserveAspectRatio="none">
            <polygon :points="'0,30 ' + points(t.spark) + ' 100,30'" />
            <polyline :points="points(t.spark)" />
          </svg>
        </dd>
      </div>
    </dl>`,
};
